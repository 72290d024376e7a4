"""What the Kafka codec costs: microseconds a message, beside kio (compiled) on the same bytes.

    python perf/kafka_codec_micro.py

Produce of 1 and of 16 partitions (1 KiB of records each), Fetch of the same, Metadata of 100 topics
with 3 partitions, and a Heartbeat. kio copies records, this codec passes them through.
"""

from __future__ import annotations

import importlib
import io
import time
from collections.abc import Callable
from typing import Any

from kio.serial import entity_reader, entity_writer

from robustmq.kafka import codec, messages
from robustmq.kafka.apis import APIS

BEST_OF = 5
SECONDS = 0.05
RECORDS = bytes(1024)


def best_us(call: Callable[[], object]) -> float:
    """The least time of one call, in microseconds, over several runs."""
    best = float("inf")
    for _ in range(BEST_OF):
        count = 0
        begin = time.perf_counter()
        end = begin + SECONDS
        while (now := time.perf_counter()) < end:
            for _ in range(20):
                call()
            count += 20
        best = min(best, (now - begin) / count)
    return best * 1e6


def produce(partitions: int) -> Any:
    data = [
        messages.PartitionProduceData(index=index, records=RECORDS) for index in range(partitions)
    ]
    return messages.ProduceRequest(
        acks=-1,
        timeout_ms=30000,
        topic_data=[messages.TopicProduceData(name="sensors", partition_data=data)],
    )


def fetch(partitions: int) -> Any:
    data = [
        messages.PartitionData(partition_index=index, high_watermark=1000, records=[RECORDS])
        for index in range(partitions)
    ]
    return messages.FetchResponse(
        responses=[messages.FetchableTopicResponse(topic="sensors", partitions=data)]
    )


def fetch_request(partitions: int) -> Any:
    data = [
        messages.FetchPartition(partition=index, fetch_offset=7, partition_max_bytes=1 << 20)
        for index in range(partitions)
    ]
    return messages.FetchRequest(
        max_wait_ms=500, topics=[messages.FetchTopic(topic="sensors", partitions=data)]
    )


def metadata() -> Any:
    broker = messages.MetadataResponseBroker(node_id=1, host="broker-1", port=9092)
    topics = [
        messages.MetadataResponseTopic(
            name=f"topic-{number}",
            partitions=[
                messages.MetadataResponsePartition(
                    partition_index=index, leader_id=1, replica_nodes=[1], isr_nodes=[1]
                )
                for index in range(3)
            ],
        )
        for number in range(100)
    ]
    return messages.MetadataResponse(brokers=[broker], cluster_id="c", topics=topics)


def heartbeat() -> Any:
    return messages.HeartbeatRequest(group_id="group", generation_id=3, member_id="member-1")


CASES = (
    ("Produce request, 1 partition", 0, 9, "request", produce(1)),
    ("Produce request, 16 partitions", 0, 9, "request", produce(16)),
    ("Fetch request, 16 partitions", 1, 12, "request", fetch_request(16)),
    ("Fetch response, 1 partition", 1, 12, "response", fetch(1)),
    ("Fetch response, 16 partitions", 1, 12, "response", fetch(16)),
    ("Metadata response, 100 topics", 3, 12, "response", metadata()),
    ("Heartbeat request", 12, 4, "request", heartbeat()),
)


def figures(key: int, version: int, side: str, message: Any) -> tuple[list[float], int]:
    """Decode, kio's decode, encode, kio's encode; and the bytes of the message."""
    request = side == "request"
    decode = codec.decode_request if request else codec.decode_response
    encode = codec.encode_request if request else codec.encode_response
    wire = b"".join(encode(key, version, message))
    name = APIS[key].name
    module = importlib.import_module(f"kio.schema.{name.lower()}.v{version}.{side}")
    shape = getattr(module, name + side.capitalize())
    read, write = entity_reader(shape), entity_writer(shape)
    entity, _ = read(wire, 0)
    calls: list[Callable[[], object]] = [
        lambda: decode(key, version, wire),
        lambda: read(wire, 0),
        lambda: encode(key, version, message),
        lambda: write(io.BytesIO(), entity),
    ]
    return [best_us(call) for call in calls], len(wire)


def main() -> None:
    print(f"{'microseconds':34}{'decode':>9}{'kio':>9}{'encode':>9}{'kio':>9}{'bytes':>9}")
    for title, *case in CASES:
        found, size = figures(*case)
        print(f"{title:34}" + "".join(f"{figure:9.1f}" for figure in found) + f"{size:9}")


if __name__ == "__main__":
    main()
