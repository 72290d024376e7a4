"""Where the UNIX sockets of a node stand.

A UNIX address holds 107 bytes of path. A run directory whose sockets would be longer is replaced by
a private directory under the system's temporary one, the same for every process of the node.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

MAX_PATH_BYTES = 107


def socket_path(directory: Path, name: str) -> str:
    """The address of a socket of this node; its directory exists and is private."""
    path = directory / name
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return str(path)
    digest = hashlib.sha256(os.fsencode(directory.absolute())).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"robustmq-{os.getuid()}-{digest}"
    short.mkdir(mode=0o700, exist_ok=True)
    found = short.lstat()
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    if not private or found.st_uid != os.getuid():
        raise OSError(f"{short} belongs to someone else: set node.data_dir to a shorter path")
    return str(short / name)
