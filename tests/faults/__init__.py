"""Real processes that are killed, disks that fail."""
