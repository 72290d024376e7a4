"""A supervisor whose workers do nothing but say that they live: `python supervised.py DIR ...`."""

from __future__ import annotations

import signal
import sys
import types
from pathlib import Path

from robustmq import config
from robustmq.process.context import WorkerContext


def worker_main(context: WorkerContext) -> int:
    """A line in the log of its lives; ends with SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGHUP])
    context.row.begin(1)
    lives = Path(context.settings.node.data_dir) / f"lives-{context.worker_id}"
    with lives.open("a") as file:
        file.write(f"{context.incarnation}\n")
    context.ready([f"mqtt 127.0.0.1:{context.settings.mqtt.port}"])
    while True:
        number = signal.sigwait([signal.SIGTERM, signal.SIGHUP])
        if number == signal.SIGTERM:
            with lives.open("a") as file:
                file.write("drained\n")
            return 0
        settings = context.reload()
        if settings is not None:
            with lives.open("a") as file:
                file.write(f"reloaded {settings.limits.max_inflight}\n")


def main() -> int:
    """Run until SIGTERM."""
    fake = types.ModuleType("robustmq.process.worker")
    fake.main = worker_main  # type: ignore[attr-defined]
    sys.modules["robustmq.process.worker"] = fake
    from robustmq.process.supervisor import run

    path = Path(sys.argv[1])
    return run(config.load(path, {}), lambda: config.load(path, {}))


if __name__ == "__main__":
    sys.exit(main())
