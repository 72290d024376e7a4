"""Structured logs: one event a line, text for people, JSON for machines.

`log = get_logger("net")`, then `log.info("listening", port=1883)`: the event is a fixed phrase,
what varies are fields. Bytes from peers are shown escaped and cut, so that nobody can forge a line
or fill a disk with one.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, TextIO

FIELD_CHARACTERS = 512
_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class Logger:
    """A named source of events."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"robustmq.{name}")

    def debug(self, event: str, **fields: object) -> None:
        """For developers."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """For operators: what happened."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """For operators: look at it when there is time."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """For operators: something is broken."""
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """An error with the stack of the exception being handled."""
        self._logger.error(event, extra={"fields": fields}, exc_info=True)

    def _write(self, level: int, event: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, extra={"fields": fields})


class TextFormatter(logging.Formatter):
    """`2026-01-01 12:00:00.123 INFO net listening port=1883`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the stack below it if there is one."""
        moment = self.formatTime(record, "%Y-%m-%d %H:%M:%S")
        source = record.name.removeprefix("robustmq.")
        fields = _fields(record)
        told = "".join(f" {name}={_text(value)}" for name, value in fields.items())
        process = f"[{record.processName}] " if record.processName != "MainProcess" else ""
        line = (
            f"{moment}.{int(record.msecs):03d} {record.levelname:<7} {process}{source}"
            f" {_clean(record.getMessage())}{told}"
        )
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, source, event, pid, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry: dict[str, object] = {
            "time_ms": int(record.created * 1000),
            "level": record.levelname.lower(),
            "source": record.name.removeprefix("robustmq."),
            "event": record.getMessage(),
            "pid": record.process,
        }
        for name, value in _fields(record).items():
            plain = isinstance(value, (int, float, bool)) or value is None
            entry[name] = value if plain else _clean(_decoded(value))
        if record.exc_info:
            entry["stack"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def get_logger(name: str) -> Logger:
    """The logger of a room."""
    return Logger(name)


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Send events of at least `level` to `stream` (standard error); `form` is auto, text or
    json."""
    target = sys.stderr if stream is None else stream
    if form == "auto":
        form = "text" if target.isatty() else "json"
    handler = logging.StreamHandler(target)
    handler.setFormatter(TextFormatter() if form == "text" else JsonFormatter())
    root = logging.getLogger("robustmq")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(_LEVELS[level])


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "fields", {})


def _decoded(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _clean(written: str) -> str:
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in written[:FIELD_CHARACTERS]
    )
    return shown if len(written) <= FIELD_CHARACTERS else shown + "..."


def _text(value: object) -> str:
    shown = _clean(_decoded(value))
    return json.dumps(shown) if " " in shown or not shown else shown
