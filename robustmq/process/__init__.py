"""The processes of a node: supervisor, workers, meta, admin."""
