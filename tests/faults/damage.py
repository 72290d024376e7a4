"""Bits flipped in what a broker has stored, while none runs."""

from __future__ import annotations

import random
from pathlib import Path

from robustmq.storage.shard_log import BLOCK, HEAD


def flip(path: Path, at: int, choose: random.Random) -> None:
    """One bit of a byte of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << choose.randrange(8)]))


def blocks_of(path: Path, topic: bytes) -> list[tuple[int, int]]:
    """(begin, end) of the entries of a shard's log file that hold messages of a topic."""
    data = path.read_bytes()
    found: list[tuple[int, int]] = []
    at = 0
    while at + HEAD.size <= len(data):
        length, _, kind, *_ = HEAD.unpack_from(data, at)
        if length < HEAD.size:
            break
        if kind == BLOCK and topic in data[at : at + length]:
            found.append((at, at + length))
        at += length
    return found


def flip_in_log(data: Path, topic: bytes, choose: random.Random) -> tuple[Path, int]:
    """A bit of a message of a light topic, neither its first nor its last one."""
    found = [
        (path, begin, end)
        for path in sorted(data.glob("*/log/*.log"))
        for begin, end in blocks_of(path, topic)
    ]
    path, begin, end = choose.choice(found[1:-1])
    at = choose.randrange(begin, end)
    flip(path, at, choose)
    return path, at


def flip_in_segment(data: Path, choose: random.Random) -> tuple[Path, int]:
    """A bit of a segment file, not in its last part."""
    paths = [path for path in sorted(data.glob("*/segments/*/*.log")) if path.stat().st_size > 1000]
    path = choose.choice(paths)
    at = choose.randrange(path.stat().st_size * 3 // 4)
    flip(path, at, choose)
    return path, at
