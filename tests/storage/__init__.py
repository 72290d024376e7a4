"""The shard log, the engines, the store of a shard: on disks that crash and rot."""
