"""/metrics and /health."""

from __future__ import annotations

import urllib.error
import urllib.request

from robustmq import config
from robustmq.observability.counters import Counters
from robustmq.process.admin import build


def get(url: str) -> tuple[int, bytes]:
    """Status and body."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_a_node_is_ready_when_all_its_workers_are() -> None:
    counters = Counters(2)
    server = build(config.parse({"metrics": {"port": 0}}), counters)
    server.start()
    base = f"http://127.0.0.1:{server.port}"
    assert get(base + "/health/live")[0] == 200
    counters.row(0).set("ready", 1)
    assert get(base + "/health/ready") == (503, b"workers not ready: 1\n")
    counters.row(1).set("ready", 1)
    assert get(base + "/health/ready")[0] == 200
    assert b'robustmq_ready{worker="1"} 1.0' in get(base + "/metrics")[1]
    assert get(base + "/nothing")[0] == 404
    server.shutdown()
    server.server_close()
