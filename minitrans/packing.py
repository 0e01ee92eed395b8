"""`pack`: from tokenized texts to a packed batch that every encoder takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from minitrans.attention.layout import PackedLayout

FIELDS = ("input_ids", "token_type_ids", "position_ids", "labels")


def pack(encodings: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The tokens of several texts laid end to end, with the layout that says where each begins: `model(**pack(...))`.

    Args:
        encodings: a list of encodings of one text each, or one batch: what a tokenizer returned without padding (lists of
            lists), or with it (tensors or lists; then its attention_mask tells the tokens).

    Returns:
        `input_ids`, and whichever of `token_type_ids`, `position_ids` and `labels` (one a token) was given, each (N) int64,
        and `layout`. The model counts positions anew in every text, by its family's own rule (R7).

    Raises:
        TypeError: for anything else. ValueError: for nothing, or fields whose rows differ in length.
    """
    if not isinstance(encodings, Mapping):
        if isinstance(encodings, str) or not all(isinstance(each, Mapping) for each in encodings):
            raise TypeError("pack needs a tokenizer's batch, or a list of encodings: each a mapping with input_ids")
        names = set().union(*encodings) if encodings else set()
        encodings = {
            name: [each[name] for each in encodings] for name in names if all(name in each for each in encodings)
        }
    if "input_ids" not in encodings:
        raise ValueError("there is nothing to pack: no input_ids")
    rows = {name: _rows(encodings[name]) for name in FIELDS if name in encodings}
    masks = _rows(encodings["attention_mask"]) if "attention_mask" in encodings else None
    for name, of_name in rows.items():
        if [len(row) for row in of_name] != [len(row) for row in rows["input_ids"]]:
            raise ValueError(f"{name} and input_ids have rows of different lengths")
        if masks is not None:
            rows[name] = [row[mask.bool()] for row, mask in zip(of_name, masks, strict=True)]
    layout = PackedLayout.from_lengths([len(row) for row in rows["input_ids"]], rows["input_ids"][0].device)
    return {**{name: torch.cat(of_name) for name, of_name in rows.items()}, "layout": layout}


def _rows(values: Any) -> list[Tensor]:
    return [torch.as_tensor(row, dtype=torch.long).flatten() for row in values]
