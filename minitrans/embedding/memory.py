"""Giving back memory that nobody uses.

Batches of many sizes leave the C library's heap full of holes: what is in use stays level, what is held grows. In glibc, what
remains beside an aligned block may keep it from being used again (https://sourceware.org/bugzilla/show_bug.cgi?id=30723).
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

SLACK = 128 * 1024 * 1024  # bytes; to touch so many again costs a few per cent of what the batches that fill them take
_STATM = Path("/proc/self/statm")


class Heap:
    """Keeps the memory of this process within `SLACK` of what it needs, where the C library is glibc; elsewhere does nothing."""

    _limit: int | None = None

    def settle(self) -> None:
        """To be called now and then: gives free pages back to the system if there may be many."""
        if sys.platform != "linux":
            return
        held = _held()
        if self._limit is not None and held > self._limit:
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
            if trim is not None:
                trim(0)
            self._limit = _held() + SLACK
        elif self._limit is None or held + SLACK < self._limit:
            self._limit = held + SLACK


def _held() -> int:
    """Bytes of memory that are resident and belong to no file."""
    _, resident, shared, *_ = map(int, _STATM.read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
