"""Whole checkpoints: `convert` them to clean ones, `inspect` what they hold, `verify` that a model equals the reference's.

from minitrans.checkpoints import convert, inspect, verify
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = {
    "convert": "minitrans.checkpoints.conversion",
    "inspect": "minitrans.checkpoints.inspection",
    "verify": "minitrans.checkpoints.verification",
}
__all__ = ["convert", "inspect", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
