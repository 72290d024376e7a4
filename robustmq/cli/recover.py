"""`robustmq recover`: a data directory made again from the object store."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import msgspec

from robustmq import clock, config
from robustmq.cli.main import config_path
from robustmq.process.recover import (
    RecoverError,
    check,
    choose_cluster,
    look,
    recover,
    report,
    topics_of,
)
from robustmq.storage.data_directory import DataDirectoryError
from robustmq.storage.object_store import ObjectStoreError
from robustmq.storage.remote_store import open_object_store
from robustmq.tiering_settings import TieringSettings, problem_of


def run_recover(arguments: list[str]) -> int:
    """Exit code 0: done, 1: refused or failed, 2: wrong use."""
    parser = argparse.ArgumentParser(
        prog="robustmq recover",
        description="Make a lost data directory again from the object store.",
    )
    parser.add_argument("--config", metavar="FILE", help="default: config.toml, if it is here")
    parser.add_argument("--url", help="the object store; default: storage.tiering.url")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="more of storage.tiering.options; secrets are better kept in the environment",
    )
    parser.add_argument("--data-dir", metavar="DIR", help="default: node.data_dir")
    parser.add_argument("--cluster-id", default="", help="which, where there are several")
    parser.add_argument(
        "--take-over", action="store_true", help="the cluster that wrote last is surely dead"
    )
    parser.add_argument("--look", action="store_true", help="say what there is, and do nothing")
    options = parser.parse_args(arguments)
    try:
        settings = config.load(config_path(options.config), os.environ)
        tiering = _tiering(settings.storage.tiering, options.url, options.option)
    except config.ConfigError as error:
        print(f"robustmq recover: {error}", file=sys.stderr)
        return 2
    data_dir = Path(options.data_dir or settings.node.data_dir)
    try:
        store = open_object_store(tiering)
        found = look(store, choose_cluster(store, options.cluster_id))
        if options.look:
            print("\n".join(report(found, topics_of(found))))
            return 0
        check(found, data_dir, clock.wall_ms(), options.take_over)
        recover(store, found, data_dir, settings.storage, clock.wall_ms(), print)
    except (RecoverError, ObjectStoreError, DataDirectoryError, OSError) as error:
        print(f"robustmq recover: {error}", file=sys.stderr)
        return 1
    shards = found.mark.shards
    if shards != settings.node.shards:
        print(f"Start it with node.shards = {shards}.")
    return 0


def _tiering(settings: TieringSettings, url: str | None, options: list[str]) -> TieringSettings:
    given = dict(settings.options)
    for option in options:
        name, _, value = option.partition("=")
        given[name] = value
    tiering = msgspec.structs.replace(settings, url=url or settings.url, options=given)
    problem = problem_of(tiering) if tiering.url else "say --url, or set it"
    if problem is not None:
        raise config.ConfigError(f"storage.tiering.url: {problem}")
    return tiering
