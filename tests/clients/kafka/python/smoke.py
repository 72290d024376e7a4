"""A Python client of Kafka does the job of the matrix: `smoke.py <library> <address>`."""

from __future__ import annotations

import sys

from tests.clients.kafka.python.job import Library, run


def library(name: str, address: str) -> Library:
    """Only the one that is asked for is imported."""
    if name == "aiokafka":
        from tests.clients.kafka.python.with_aiokafka import Aiokafka

        return Aiokafka(address)
    if name == "kafka-python":
        from tests.clients.kafka.python.with_kafka_python import KafkaPython

        return KafkaPython(address)
    from tests.clients.kafka.python.with_confluent import Confluent

    return Confluent(address)


if __name__ == "__main__":
    run(sys.argv[1], library(sys.argv[1], sys.argv[2]))
