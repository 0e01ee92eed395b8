"""Giving memory back. Batches of many sizes leave glibc's heap full of holes: what is in use stays level, what is held grows."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Returns the free pages of the C library's heap to the system, where it is glibc; elsewhere does nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
