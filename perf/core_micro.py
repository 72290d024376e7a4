"""Nanoseconds a message of each step of the compiled core: `python perf/core_micro.py [--seconds
0.3]`.

Set ROBUSTMQ_PURE=1 for the interpreted form. Limits to compare with are in the table: what the
design grants.
"""

from __future__ import annotations

import argparse
import functools
import time
from array import array
from collections.abc import Callable
from typing import Any

from robustmq import core
from robustmq.core import acks, blocks, fanout, frames, hashing
from robustmq.core.audience import DeliveryRoute, Sink, Variant
from robustmq.core.filters import FilterTrie
from robustmq.core.hash_table import HashTable
from robustmq.core.publish import BlockBuilder, Publisher, RouteTable, TopicRoute
from robustmq.core.topic_index import TopicIndex

MESSAGES = 256
PAYLOAD = b"x" * 64


def packets(topics: int, qos: int = 0) -> bytes:
    """A read buffer of PUBLISH packets."""
    out = bytearray()
    for number in range(MESSAGES):
        topic = b"sensors/%06d/temp" % (number % topics)
        body = len(topic).to_bytes(2, "big") + topic
        body += (number + 1).to_bytes(2, "big") if qos else b""
        body += b"\0" + PAYLOAD
        out += bytes([0x30 | qos << 1, len(body)]) + body
    return bytes(out)


def route_of(topic: bytes) -> TopicRoute:
    """Any shard will do."""
    return TopicRoute(topic, 0, 0, 0, 0, b"")


def measure(
    name: str, limit: str, per_call: int, call: Callable[[], object], seconds: float
) -> None:
    """Print the best of repeated runs, per message."""
    call()
    best = float("inf")
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    print(f"{name:44} {best * 1e9 / per_call:10.1f} ns   limit {limit}")


def measure_publish(seconds: float) -> None:
    """scan and absorb."""
    table = array("i", [0] * (4 * 1024))
    for topics, qos, limit in ((1, 0, "60"), (MESSAGES, 0, "200"), (1, 1, "-"), (8, 0, "-")):
        buffer = packets(topics, qos)
        if topics == 1 and not qos:
            scan = functools.partial(frames.scan, buffer, 0, len(buffer), table)
            measure("scan", "3", MESSAGES, scan, seconds)
        frames.scan(buffer, 0, len(buffer), table)
        builders = [BlockBuilder(0, False)]
        publisher = Publisher(5, 1, RouteTable(), route_of, builders)

        def absorb(buffer: bytes = buffer, publisher: Publisher = publisher) -> None:
            publisher.absorb(buffer, table, 0, MESSAGES, 1)
            publisher.builders[0].take()
            publisher.packet_ids = array("H")

        measure(f"absorb, {topics} topics, QoS {qos}", limit, MESSAGES, absorb, seconds)


def block_of(topics: int) -> bytearray:
    """The block that the packets become."""
    table = array("i", [0] * (4 * 1024))
    buffer = packets(topics)
    frames.scan(buffer, 0, len(buffer), table)
    builders = [BlockBuilder(0, False)]
    Publisher(5, 1, RouteTable(), route_of, builders).absorb(buffer, table, 0, MESSAGES, 1)
    block = builders[0].take()
    assert block is not None, "packets were absorbed"
    return block


def table_of(block: bytearray, value: Callable[[bytes], object]) -> HashTable:
    """A value for each topic of a block."""
    table = HashTable(100_000)
    for entry in blocks.entries(block):
        table.put(hashing.topic_key(entry.topic), value(entry.topic))
    return table


def route_to(variant: Variant, topic: bytes) -> DeliveryRoute:
    """A route of a topic to one variant."""
    return DeliveryRoute(topic, [variant], [], False)


def unknown(topic: bytes) -> Any:
    """All topics are in the tables."""
    raise AssertionError(topic)


def measure_deliver(seconds: float) -> None:
    """The fan-out."""
    for topics, receivers, limit in ((1, 1, "60"), (MESSAGES, 1, "150"), (1, 500, "-")):
        block = block_of(topics)
        sinks = [Sink(5, 1 << 30) for _ in range(receivers)]
        variant = Variant(5, 0, False, b"", sinks)
        routes = table_of(block, functools.partial(route_to, variant))

        def deliver(
            block: bytearray = block,
            routes: HashTable = routes,
            sinks: list[Sink] = sinks,
        ) -> None:
            fanout.deliver(block, routes, unknown, [], [], [], 1)
            for sink in sinks:
                sink.take()

        name = f"deliver, {topics} topics, {receivers} receivers"
        measure(name, limit, MESSAGES * receivers, deliver, seconds)


def measure_tables(seconds: float) -> None:
    """Index, filters, split, checksum."""
    block = block_of(MESSAGES)
    index = TopicIndex()
    measure(
        "TopicIndex.assign, an entry",
        "20",
        MESSAGES,
        lambda: index.assign(block, 0, 1, []),
        seconds,
    )
    masks = table_of(block, lambda topic: 1)
    split = functools.partial(blocks.split, block, masks, unknown)
    measure("blocks.split, an entry", "15", MESSAGES, split, seconds)
    trie = FilterTrie()
    for number in range(50_000):
        trie.insert(b"sensors/%06d/+" % number, number)
        trie.insert(b"sensors/%06d/temp" % number, number)
    measure(
        "FilterTrie.match, 100,000 filters",
        "3000",
        1,
        lambda: trie.match(b"sensors/000007/temp"),
        seconds,
    )
    data = bytes(16_384)
    measure("crc32c, 16 KiB", "-", 1, lambda: hashing.crc32c(data, 0, len(data)), seconds)
    ids = array("H", range(1, 257))
    measure("acks", "-", 256, lambda: acks.encode(4, ids, 0, 256), seconds)


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.3)
    seconds = parser.parse_args().seconds
    print("compiled" if core.COMPILED else "interpreted")
    measure_publish(seconds)
    measure_deliver(seconds)
    measure_tables(seconds)


if __name__ == "__main__":
    main()
