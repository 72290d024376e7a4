"""Tests stand here as the rooms stand in robustmq/."""
