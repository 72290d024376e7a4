"""The cluster state: declared topics, workers, owners of shards; one versioned state machine
behind `propose`."""
