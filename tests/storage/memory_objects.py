"""An object store in memory that fails on demand: before a call is done, or behind it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence

from robustmq.storage.disk import Buffer, MemoryDisk
from robustmq.storage.object_store import (
    ObjectConflictError,
    ObjectMissingError,
    ObjectStoreError,
)


class MemoryObjects:
    """Objects by path. `plan` says what becomes of each call: "" it is done, "before" it fails,
    "behind" it is done and its answer is lost."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.disk = disk
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.plan: Callable[[], str] = lambda: ""
        self.error: Callable[[], BaseException] = lambda: ObjectStoreError("on demand")
        self.calls = 0
        self._versions = itertools.count(1)

    def seen_from(self, disk: MemoryDisk) -> MemoryObjects:
        """The same store for who has another disk."""
        twin = copy.copy(self)
        twin.disk = disk
        return twin

    def _begin(self) -> str:
        self.calls += 1
        verdict = self.plan()
        if verdict == "before":
            raise self.error()
        return verdict

    def _end(self, verdict: str) -> None:
        if verdict == "behind":
            raise self.error()

    def put(self, path: str, buffers: Sequence[Buffer], *, if_version: str | None = None) -> str:
        verdict = self._begin()
        _, version = self.objects.get(path, (b"", ""))
        if if_version is not None and version != if_version:
            raise ObjectConflictError(path)
        version = str(next(self._versions))
        self.objects[path] = (b"".join(buffers), version)
        self._end(verdict)
        return version

    def put_file(self, path: str, file: str, size: int) -> str:
        data = self.disk.read_apart(file, 0, size)
        assert len(data) == size
        return self.put(path, [data])

    def get(self, path: str) -> tuple[bytes, str]:
        verdict = self._begin()
        if path not in self.objects:
            raise ObjectMissingError(path)
        self._end(verdict)
        return self.objects[path]

    def get_range(self, path: str, start: int, length: int) -> memoryview:
        return memoryview(self.get(path)[0])[start : start + length]

    def list(self, prefix: str, after: str = "") -> Sequence[tuple[str, int]]:
        verdict = self._begin()
        self._end(verdict)
        return [
            (path, len(data))
            for path, (data, _) in sorted(self.objects.items())
            if path.startswith(prefix) and path > after
        ]

    def folders(self, prefix: str = "") -> Sequence[str]:
        inside = {path[len(prefix) :] for path in self.objects if path.startswith(prefix)}
        return sorted({name.partition("/")[0] for name in inside if "/" in name})

    def delete(self, paths: Sequence[str]) -> None:
        verdict = self._begin()
        for number, path in enumerate(paths):
            if verdict == "behind" and number == len(paths) // 2:
                break
            self.objects.pop(path, None)
        self._end(verdict)
