"""The data directory as a whole: what it is, and that this version can read it (docs/formats.md).

`cluster.json` stands at its top: the format's version, the cluster's id, the number of shards,
which is fixed when the directory is made, and the secret that keys the hash of topic names. A
version that cannot be read is refused with what to do.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import uuid
from pathlib import Path
from typing import NamedTuple

FORMAT_VERSION = 2
FILE_NAME = "cluster.json"


class Identity(NamedTuple):
    """What `cluster.json` says for good: the cluster's id (22 characters of base64url), and the 16
    bytes that key the hash of topic names (`core.hashing.topic_key`)."""

    cluster_id: str
    topic_secret: bytes


class DataDirectoryError(Exception):
    """A data directory that this version cannot use; the message says what to do."""


def open_data_directory(path: str | Path, shard_count: int) -> Identity:
    """Check a data directory, or make a new one."""
    directory = Path(path)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = directory / FILE_NAME
    if not file.exists():
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        return new_data_directory(directory, shard_count, cluster_id)
    identity, shards = _read(file)
    if shards != shard_count:
        raise DataDirectoryError(
            f"{directory} was made with {shards} shards, node.shards is {shard_count}: "
            f"set node.shards = {shards}"
        )
    return identity


def read_identity(path: str | Path) -> Identity:
    """Who a data directory is that exists; nothing is made."""
    file = Path(path) / FILE_NAME
    if not file.exists():
        raise DataDirectoryError(
            f"{path} is no data directory (choose it with --data-dir or --config)"
        )
    return _read(file)[0]


def _read(file: Path) -> tuple[Identity, int]:
    """What the file says: who it is, and the number of shards."""
    try:
        found = json.loads(file.read_text())
        version, cluster_id = int(found["format_version"]), str(found["cluster_id"])
        shards = int(found["shard_count"])
        secret = bytes.fromhex(found["topic_secret"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataDirectoryError(
            f"{file} cannot be read ({error}); restore it from a backup,"
            " or choose another node.data_dir"
        ) from None
    if version != FORMAT_VERSION:
        raise DataDirectoryError(
            f"{file.parent} has format {version}, this version reads {FORMAT_VERSION}: "
            "run the version that wrote it, or choose another node.data_dir"
        )
    return Identity(cluster_id, secret), shards


def new_data_directory(
    directory: Path, shard_count: int, cluster_id: str, topic_secret: bytes | None = None
) -> Identity:
    """Make a data directory of a cluster, with a secret of its own where none is given."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = topic_secret or secrets.token_bytes(16)
    _write(
        directory / FILE_NAME,
        {
            "format_version": FORMAT_VERSION,
            "cluster_id": cluster_id,
            "shard_count": shard_count,
            "topic_secret": secret.hex(),
        },
    )
    return Identity(cluster_id, secret)


def shard_directory(path: str | Path, shard: int) -> str:
    """The folder of one shard."""
    return os.path.join(path, f"{shard:04d}")


def _write(file: Path, content: dict[str, object]) -> None:
    beside = file.with_suffix(".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(content, stream, indent=2)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(beside, file)
