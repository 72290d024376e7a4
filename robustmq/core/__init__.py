"""The compiled core: plain Python with C types beside it. `ROBUSTMQ_PURE=1` runs the `.py` though a
library is there.

`COMPILED` says which form is running. The libraries depend on each other, so it is all or nothing.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType


class _PureFinder:
    """Finds the `.py` of a module of this folder before the import system sees the library beside
    it."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        source = Path(__file__).with_name(name.rpartition(".")[2] + ".py")
        if not name.startswith(__name__ + ".") or not source.exists():
            return None
        return importlib.util.spec_from_file_location(name, source)


if os.environ.get("ROBUSTMQ_PURE", "0") not in ("", "0"):
    sys.meta_path.insert(0, _PureFinder)

from robustmq.core import fanout  # noqa: E402

COMPILED: bool = not (fanout.__file__ or "").endswith(".py")
