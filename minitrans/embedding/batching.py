"""From the tokens of many texts to batches with little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Cells (rows times the longest row) of a batch that is chosen by its size in tokens. On two CPU cores a MiniLM is as fast
# with 1024 as with 4096; a GPU wants more work at a time.
CELLS = {"cpu": 2048, "cuda": 32768, "mps": 8192}


@dataclass(frozen=True)
class Tokens:
    """One text.

    Attributes:
        ids: (T) int32.
        types: (T) int8, or None where the model has no token types.
    """

    ids: np.ndarray
    types: np.ndarray | None


def length_sorted_batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """The indices of the longest `batch_size` items, then of the next: a run that does not fit fails at once."""
    order = _longest_first(lengths)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def cell_batches(lengths: Sequence[int], cells: int) -> Iterator[list[int]]:
    """The same, with as many items to a batch as fit into `cells` when padded; at least one."""
    order = _longest_first(lengths)
    start = 0
    while start < len(order):
        count = max(1, cells // max(1, lengths[order[start]]))
        yield order[start : start + count]
        start += count


def padded(rows: Sequence[Tokens], pad_id: int, device: torch.device) -> dict[str, Tensor]:
    """The arguments of a model for these texts, each (B, T), padding on the right."""
    lengths = np.array([len(row.ids) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]  # (B, T)
    fields = {"input_ids": np.full(mask.shape, pad_id), "attention_mask": mask.astype(np.int64)}
    fields["input_ids"][mask] = np.concatenate([row.ids for row in rows])
    types = [row.types for row in rows if row.types is not None]
    if types:
        fields["token_type_ids"] = np.zeros_like(fields["input_ids"])
        fields["token_type_ids"][mask] = np.concatenate(types)
    return {name: torch.from_numpy(values).to(device) for name, values in fields.items()}


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
