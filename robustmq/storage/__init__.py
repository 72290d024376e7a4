"""How records are kept: the shard log, the index of light topics, the engines, the commit.

Bottom up: `disk` (the seam to the machine), `kv` (the seam to LevelDB), `committer` (the one thread
that writes),
`shard_log` (the append-only log of a shard), `engine` (what a storage engine is) with `memory` and
`segment`, and
`shard_store` (one shard: its log, index, retained values, partitions, recovery). Formats:
docs/formats.md.
"""
