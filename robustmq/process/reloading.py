"""Settings that follow SIGHUP: what is in force, and what a new reading changes of it.

The settings in force may differ from those written (ports that were 0 are settled), so changes are
found against what was read last, and only settings that can be taken over are.
"""

from __future__ import annotations

from collections.abc import Callable

from robustmq import config
from robustmq.config import Settings


class Reloading:
    """The settings of a running node. Each process has its own copy, made by the fork."""

    def __init__(self, written: Settings, settled: Settings, read: Callable[[], Settings]) -> None:
        """`read` reads the configuration again; it raises ConfigError."""
        self.settings = settled
        self._written = written
        self._read = read

    def reload(self) -> tuple[list[str], list[str]]:
        """Read again and take over: (settings taken over, settings that need a restart). Raises
        ConfigError; then nothing changes."""
        new = self._read()
        applied, needs_restart = config.diff(self._written, new)
        self._written = config.merge(self._written, new)
        self.settings = config.merge(self.settings, new)
        return applied, needs_restart

    def taken(self) -> Settings | None:
        """For a worker: the settings in force after a reload; None when they stay as they are."""
        try:
            applied, _ = self.reload()
        except config.ConfigError:
            # The supervisor has read the same and says so.
            return None
        return self.settings if applied else None
