"""What holds for all tests: examples that are the same each time, which tests start processes, and
no silent skip in CI.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.azure_store import AzureServer
from tests.object_stores import S3Server

SERVERS = frozenset({"s3_server", "azure_server"})
SYSTEM_ROOMS = frozenset({"bench", "clients", "conformance", "faults", "process"})
"""Folders whose tests start processes; modules that use a BrokerProcess do so too."""

settings.register_profile("same each time", derandomize=True, deadline=None, database=None)
settings.load_profile("same each time")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts processes, so that scripts/test can run it two at a time."""
    tests = Path(__file__).parent
    for item in items:
        room = item.path.relative_to(tests).parts[0]
        module = getattr(item, "module", None)
        starts = SERVERS.intersection(getattr(item, "fixturenames", ()))
        if room in SYSTEM_ROOMS or hasattr(module, "BrokerProcess") or starts:
            item.add_marker(pytest.mark.system)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that is skipped has failed: what it needs was not installed."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server for all tests that leave it running; each takes a `fresh_url`."""
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """A running server of Azure's store for all tests; each takes a `fresh_url`."""
    with AzureServer(tmp_path_factory.mktemp("azure")) as server:
        yield server
