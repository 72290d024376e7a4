"""Settings of the object store: the `[storage.tiering]` section."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from robustmq.limits import KIB, MIB, bound, choice, text

GIB = 1024 * MIB
SCHEMES = ("s3", "gs", "az", "file")
_SECRET = re.compile("secret|key|token|password|sas|credential|service_account", re.IGNORECASE)


class TieringSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The object store that closed segments of tiered topics go to."""

    url: Annotated[
        str,
        text("s3://bucket/prefix, gs://..., az://container/..., file:///folder. Empty: none."),
    ] = ""
    options: Annotated[
        dict[str, str],
        choice(
            "endpoint, region, access_key_id, secret_access_key, ...: as obstore names them. What"
            " is not here comes from the environment, as AWS_ACCESS_KEY_ID."
        ),
    ] = {}
    timeout_ms: Annotated[
        int,
        bound("ms", "One request to the store, its repetitions included.", 100, 3_600_000, False),
    ] = 30_000
    connect_timeout_ms: Annotated[
        int, bound("ms", "A connection to the store.", 100, 600_000, False)
    ] = 5_000
    retries: Annotated[
        int,
        bound("", "Repetitions of a request at once; then it waits its turn anew.", 0, 100, False),
    ] = 3
    uploads: Annotated[
        int,
        bound("uploads", "Segments that one worker uploads at a time, 40 MB each.", 1, 64, False),
    ] = 2
    upload_bytes_per_second: Annotated[
        int, bound("bytes/s", "What one worker uploads at most; 0: no bound.", 0)
    ] = 0
    check_ms: Annotated[
        int, bound("ms", "How often it is looked for segments to upload.", 10, 3_600_000)
    ] = 1_000
    retry_max_ms: Annotated[
        int,
        bound(
            "ms", "Longest pause before a store that does not answer is asked again.", 10, 3_600_000
        ),
    ] = 60_000
    cache_memory_bytes: Annotated[
        int,
        bound(
            "bytes", "Blocks of the store that one worker keeps in memory.", 1 * MIB, None, False
        ),
    ] = 64 * MIB
    cache_disk_bytes: Annotated[
        int,
        bound(
            "bytes",
            "Blocks that the node keeps on its disk, shared out to the workers; 0: none.",
            0,
            None,
            False,
        ),
    ] = 4 * GIB
    cache_directory: Annotated[
        str,
        text("The folder for these; best on an SSD. Empty: `tier-cache` in node.data_dir."),
    ] = ""
    block_bytes: Annotated[
        int,
        bound("bytes", "Size of a block.", 64 * KIB, 16 * MIB, False),
    ] = 1 * MIB
    prefetch_bytes: Annotated[
        int,
        bound(
            "bytes",
            "What one worker fetches ahead for readers that read on, and holds for them.",
            1 * MIB,
            None,
            False,
        ),
    ] = 64 * MIB


def problem_of(settings: TieringSettings) -> str | None:
    """What is wrong with the URL of a store; None: nothing that can be seen without asking."""
    if not settings.url:
        return None
    parts = urlsplit(settings.url)
    if parts.scheme not in SCHEMES:
        return f"{parts.scheme or 'no scheme'}: it begins with s3, gs, az or file"
    if parts.username or parts.password or parts.query:
        return "credentials stand in storage.tiering.options or in the environment, not here"
    if parts.scheme == "file":
        absolute = parts.path.startswith("/") and not parts.netloc
        return None if absolute else "a folder is named as file:///absolute/path"
    return None if parts.netloc else f"{parts.scheme}://bucket/prefix: the bucket is missing"


def shown(settings: TieringSettings) -> str:
    """The store as a line of the log may name it: nothing in it is a secret."""
    told = [
        f"{name}={value}" for name, value in settings.options.items() if not _SECRET.search(name)
    ]
    return " ".join([settings.url, *told])
