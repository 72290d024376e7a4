"""The child processes of the supervisor: fork, restart with back-off, stop in order.

When to do what is the supervisor's. Invariants: a child leaves
by `os._exit`, so nothing of the parent runs twice; a child that lived for STABLE_S starts again at
once; one that dies young waits longer each time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable

from robustmq.observability import logs
from robustmq.process.surroundings import become_child

BACK_OFF_S = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
STABLE_S = 60.0
FORK_RETRY_S = 1.0
log = logs.get_logger("supervisor")


class Child:
    """One place for a process: who is in it, or when it is filled again."""

    def __init__(self, name: str, body: Callable[[], int]) -> None:
        """`body` runs in the child; its value is the exit code."""
        self.name = name
        self.pid = 0
        self._body = body
        self._failures = 0
        self._started_s = 0.0
        self.restart_at_s: float | None = None

    def start(self, now_s: float) -> None:
        """Fork; a system that cannot is asked again after a while."""
        self._started_s = now_s
        self.restart_at_s = None
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        # Signals wait until the child has handlers of its own, or none.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            pid = os.fork()
        except OSError as error:
            # No memory or too many processes, perhaps for a moment: the others serve on.
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            log.error("cannot start a process", name=self.name, reason=error.strerror)
            self.restart_at_s = now_s + FORK_RETRY_S
            return
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self.pid = pid
            return
        code = 1
        try:
            become_child(parent, self.name)
            multiprocessing.current_process().name = self.name
            signal.set_wakeup_fd(-1)
            # A signal to the whole group (Ctrl-C, `timeout`) is for the supervisor alone: it
            # decides the order of the end.
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
            code = self._body()
        except BaseException:
            log.exception("a process ended", name=self.name)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def ended(self, status: int, now_s: float) -> None:
        """It is gone though nobody asked: say so, and when it comes again."""
        lived_s = now_s - self._started_s
        self._failures = 0 if lived_s >= STABLE_S else self._failures + 1
        delay_s = BACK_OFF_S[min(max(0, self._failures - 1), len(BACK_OFF_S) - 1)]
        self.restart_at_s = now_s + delay_s
        log.error(
            "a process died, starting it again",
            name=self.name,
            pid=self.pid,
            status=describe(status),
            delay_s=delay_s,
        )
        self.pid = 0

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it lives."""
        if self.pid:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass


HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def describe(status: int) -> str:
    """A wait status in words."""
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"exit code {os.waitstatus_to_exitcode(status)}"
