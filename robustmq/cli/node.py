"""The running broker, as the command line reaches it: the control sockets of its workers.

The node is found by its data directory, as every command finds its settings. All workers are asked
the same, and what they answer is one answer; a worker that does not answer (it may be starting
again) is named, and what the others say is shown.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from robustmq.cli.main import config_path, load_settings, settings_overrides
from robustmq.config import ConfigError, Settings
from robustmq.control.messages import Line, Request, ShowWorker, WorkerRow
from robustmq.net.unix_paths import socket_path

TIMEOUT_S = 15.0
R = TypeVar("R")


class NodeError(Exception):
    """What was asked cannot be done; the message is for people."""


class Node:
    """The workers of a running broker."""

    def __init__(self, data_dir: str) -> None:
        self.data_dir = data_dir
        self._run_directory = Path(data_dir) / "run"
        self.silent: dict[int, str] = {}
        """Workers that did not answer, and why."""
        self.cut = False
        """True when the limit of a request has cut what some worker said."""
        self.workers = self._count()

    def ask(self, request: Request, row: type[R]) -> Iterator[R]:
        """Ask every worker; the rows of all, as they come."""
        asked = []
        with contextlib.ExitStack() as stack:
            # All are asked before the first is read, so they work side by side.
            for worker in range(self.workers):
                conversation = stack.enter_context(Conversation(self._path(worker)))
                try:
                    conversation.send(request)
                except OSError as error:
                    self.silent[worker] = _why(error)
                else:
                    asked.append((worker, conversation))
            for worker, conversation in asked:
                try:
                    yield from conversation.rows(row)
                except OSError as error:
                    self.silent[worker] = _why(error)
                self.cut = self.cut or conversation.cut

    def ask_one(self, request: Request, row: type[R]) -> list[R]:
        """Ask one worker, whichever answers: what it does holds for all of them."""
        for worker in range(self.workers):
            try:
                with Conversation(self._path(worker)) as conversation:
                    conversation.send(request)
                    return list(conversation.rows(row))
            except OSError as error:
                self.silent[worker] = _why(error)
        raise NodeError(f"no worker of the broker in {self.data_dir} answers")

    def complain(self) -> int:
        """Say who was silent; the exit code."""
        for worker, reason in sorted(self.silent.items()):
            print(f"robustmq: worker {worker} does not answer: {reason}", file=sys.stderr)
        return 1 if self.silent else 0

    def _path(self, worker: int) -> str:
        return socket_path(self._run_directory, f"control-{worker}.sock")

    def _count(self) -> int:
        """How many workers there are: whichever answers knows."""
        try:
            here = self._run_directory.is_dir()
            files = sorted(Path(self._path(0)).parent.glob("control-*.sock")) if here else []
        except PermissionError:
            raise NodeError(
                f"{self.data_dir} is another user's: run this as the user of the broker"
            ) from None
        for file in files:
            try:
                with Conversation(str(file)) as conversation:
                    conversation.send(ShowWorker())
                    return next(iter(conversation.rows(WorkerRow))).workers
            except PermissionError:
                raise NodeError(
                    f"{file} is another user's: run this as the user of the broker"
                ) from None
            except (OSError, StopIteration):
                continue
        raise NodeError(
            f"no broker runs with the data directory {self.data_dir}"
            " (choose it with --data-dir or --config, as for `robustmq start`)"
        )


class Conversation:
    """One request to one worker."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT_S)
        self.cut = False

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, request: Request) -> None:
        """Connect and ask; raises OSError."""
        self._socket.connect(self._path)
        self._socket.sendall(msgspec.json.encode(request) + b"\n")

    def rows(self, row: type[R]) -> Iterator[R]:
        """The rows of the answer; raises OSError when it breaks off, NodeError for a refusal."""
        lines = msgspec.json.Decoder(Line)
        rows = msgspec.json.Decoder(row)
        with self._socket.makefile("rb") as file:
            for written in file:
                line = lines.decode(written)
                if line.end is not None:
                    self.cut = line.end.more
                    if line.end.error:
                        raise NodeError(line.end.error)
                    return
                yield rows.decode(line.row)
        raise ConnectionResetError("it went away in the middle of its answer")


def node_options(parser: argparse.ArgumentParser) -> None:
    """The options by which a command finds the broker."""
    parser.add_argument("--config", metavar="FILE", help="default: config.toml, if it is here")
    parser.add_argument("--data-dir", metavar="DIR", help="node.data_dir")


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings that the options name; raises NodeError."""
    options.workers = None
    try:
        return load_settings(config_path(options.config), settings_overrides(options))
    except ConfigError as error:
        raise NodeError(str(error)) from None


def find(options: argparse.Namespace) -> Node:
    """The broker of these options; raises NodeError."""
    return Node(settings_of(options).node.data_dir)


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing came within {TIMEOUT_S:.0f} s"
    return error.strerror or str(error)
