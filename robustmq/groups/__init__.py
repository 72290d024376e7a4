"""Durable machines of groups and producers: pure, executed by the shard runtime (contract.py)."""
