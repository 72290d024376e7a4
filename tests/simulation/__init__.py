"""The whole broker in one process, under a seed."""
