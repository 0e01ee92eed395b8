"""Data sets of the `datasets` library, and any sequence of rows like them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minitrans.training.data.records import Records


def from_dataset(dataset: Any, name: str = "dataset") -> Records:
    """The rows of a `datasets.Dataset`, read as they are needed.

    Args:
        dataset: with a length and rows by number.
        name: for messages.

    Raises:
        TypeError: for a dictionary of splits, or one that can only be gone through.
    """
    if isinstance(dataset, Mapping):
        raise TypeError(f"{name}: expected one split, got {', '.join(map(str, dataset))}: give {name}[...]")
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise TypeError(f"{name}: rows must have numbers and an end; load it without streaming=True")
    return Records(name, dataset)
