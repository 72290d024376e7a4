"""kcat does what it can of the matrix' job: `smoke.py kcat <address>`. The topic is there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

COUNT = 60
PARTITIONS = 6
WAIT_S = 40
PADDING = "x" * 200
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
CONFLUENT = ["-X", "enable.idempotence=true", "-X", "acks=all", "-X", "linger.ms=20"]


def kcat(address: str, *arguments: str, given: str = "") -> str:
    """Its output."""
    done = subprocess.run(
        ["kcat", "-b", address, *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, f"kcat {arguments}: {done.stderr}"
    return done.stdout


def send(address: str, topic: str, codec: str, word: str) -> None:
    lines = [f"key {number}:kcat {word} {number} {PADDING}\n" for number in range(COUNT)]
    headers = ["-H", "library=kcat", "-H", f"codec={word}", "-H", "empty="]
    compression = [] if codec == "none" else ["-z", codec]
    options = [*CONFLUENT, *headers, *compression]
    kcat(address, "-P", "-t", topic, "-K:", *options, given="".join(lines))


def rows(text: str) -> Iterator[tuple[str, str, str]]:
    """Key, value and the library that wrote it."""
    for line in text.splitlines():
        row = json.loads(line)
        headers = row.get("headers", [])
        yield (
            row["key"],
            row["payload"],
            dict(zip(headers[::2], headers[1::2], strict=True))["library"],
        )


def read_group(address: str, topic: str, members: int, count: int) -> list[str]:
    """What members of a group read together, until all is read; they commit when they end."""
    command = ["kcat", "-b", address, "-G", topic, "-J", "-u", "-q", "-e", topic]
    options = ["-X", "auto.offset.reset=earliest", "-X", "heartbeat.interval.ms=300"]
    running = [
        subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        for _ in range(members)
    ]
    found = [value for one in running for _, value, _ in rows(one.communicate(timeout=WAIT_S)[0])]
    assert len(found) == count, f"{len(found)} of {count}"
    return found


def first_part(address: str) -> tuple[Counter[str], int]:
    wanted: Counter[str] = Counter()
    for codec in CODECS:
        send(address, "kcat", codec, codec)
        send(address, f"cross.{codec}", codec, codec)
        wanted.update(f"kcat {codec} {number} {PADDING}" for number in range(COUNT))
        print("wrote", codec, flush=True)
    time.sleep(0.05)
    between_ms = int(time.time() * 1000)
    time.sleep(0.05)
    found = read_group(address, "kcat", 2, wanted.total())
    assert Counter(found) == wanted
    send(address, "light.kcat", "none", "none")
    return wanted, between_ms


def second_part(address: str, before: int, between_ms: int) -> None:
    send(address, "kcat", "zstd", "restarted")
    found = read_group(address, "kcat", 1, COUNT)
    assert sorted(found) == sorted(f"kcat restarted {number} {PADDING}" for number in range(COUNT))
    wanted = [f"-tkcat:{index}:{between_ms}" for index in range(PARTITIONS)]
    # "kcat [0] offset 57"
    offsets = [int(line.split()[-1]) for line in kcat(address, "-Q", *wanted).splitlines()]
    assert len(offsets) == PARTITIONS and sum(offsets) == before, offsets
    metadata = json.loads(kcat(address, "-L", "-J"))
    partitions = {row["topic"]: len(row["partitions"]) for row in metadata["topics"]}
    assert (partitions["kcat"], partitions["light.kcat"]) == (PARTITIONS, 1)


def show_cross(address: str, codec: str, count: int) -> None:
    text = kcat(address, "-C", "-t", f"cross.{codec}", "-J", "-q", "-c", str(count))
    found = Counter(
        library
        for key, value, library in rows(text)
        if value == f"{library} {codec} {key[4:]} {PADDING}"
    )
    for library, number in sorted(found.items()):
        print("read", library, codec, number, flush=True)


def main(address: str) -> None:
    wanted, between_ms = first_part(address)
    print("first", flush=True)
    counts = dict(word.split("=") for word in sys.stdin.readline().split())
    second_part(address, wanted.total(), between_ms)
    for codec in CODECS:
        show_cross(address, codec, int(counts[codec]))
    print("ok", flush=True)


if __name__ == "__main__":
    main(sys.argv[2])
