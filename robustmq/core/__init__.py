"""The compiled core: plain Python with C types beside it. `ROBUSTMQ_PURE=1` runs the `.py` though a library is there."""

from __future__ import annotations

COMPILED = False
