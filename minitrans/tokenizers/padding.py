"""Padding rows that were encoded one by one: `tokenizer.pad`, which data loaders use to make a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minitrans.tokenizers.batch_encoding import BatchEncoding
from minitrans.tokenizers.call_options import Plan


@dataclass(frozen=True)
class Filling:
    """What stands at padded positions: the main field, its pad id, the pad's token type, and whether a mask is wanted."""

    main: str
    pad_id: int | None
    pad_type_id: int
    with_mask: bool


def _plain(value: Any) -> Any:
    """Tensors and arrays as lists of Python numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _pad_row(row: dict[str, Any], length: int, side: str, filling: Filling) -> dict[str, Any]:
    ids = list(row[filling.main])
    if filling.with_mask:
        row.setdefault("attention_mask", [1] * len(ids))
    missing = max(0, length - len(ids))
    fills = {
        "attention_mask": 0,
        "token_type_ids": filling.pad_type_id,
        "special_tokens_mask": 1,
        filling.main: filling.pad_id,
    }
    for key, fill in fills.items():
        if key in row:
            extra = [fill] * missing
            row[key] = list(row[key]) + extra if side == "right" else extra + list(row[key])
    return row


def pad_batch(encoded: Any, plan: Plan, filling: Filling, return_tensors: str | None) -> BatchEncoding:
    """Pads input_ids, attention_mask, token_type_ids and special_tokens_mask; other fields pass as they are.

    Args:
        encoded: a list of encodings (dicts), or one dict of a row or of a list of rows. It is not changed.
        plan: padding strategy, length and side; truncation plays no part.
        filling: what to pad with.
        return_tensors: "pt", "np" or None (tensors in, tensors of the same kind out).

    Raises:
        TypeError, ValueError: if the encodings are of the wrong type, lack the main field, or differ in fields or sizes.
    """
    if (
        isinstance(encoded, Sequence)
        and not isinstance(encoded, str)
        and all(isinstance(row, Mapping) for row in encoded)
    ):
        if not encoded:
            raise ValueError("pad: expected at least one encoding, got an empty list")
        for number, row in enumerate(encoded):
            if row.keys() != encoded[0].keys():
                raise ValueError(f"pad: encoding {number} has the fields {sorted(row)}, expected {sorted(encoded[0])}")
        fields = {key: [row[key] for row in encoded] for key in encoded[0]}
    elif isinstance(encoded, Mapping):
        fields = dict(encoded)
    else:
        raise TypeError(f"pad: expected an encoding or a list of encodings, got {type(encoded).__name__}")
    main = fields.get(filling.main)
    if main is None:
        raise ValueError(f"pad: expected the field {filling.main!r}, got {sorted(fields)}")
    if return_tensors is None:
        return_tensors = _tensor_type(main)
    fields = {key: _plain(value) for key, value in fields.items()}
    main = fields[filling.main]
    if not isinstance(main, list):
        raise TypeError(f"pad: expected a list of ids in {filling.main!r}, got {type(main).__name__}")
    if not main:
        return BatchEncoding(
            {**fields, **({"attention_mask": []} if filling.with_mask else {})}, tensor_type=return_tensors
        )
    single = not isinstance(main[0], list)
    rows = [fields] if single else _rows(fields, len(main))
    longest = max(len(row[filling.main]) for row in rows)
    length = {None: 0, "longest": longest, "max_length": plan.max_length or 0}[plan.padding]
    if plan.padding and plan.pad_to_multiple_of:
        length = -(-length // plan.pad_to_multiple_of) * plan.pad_to_multiple_of
    padded = [_pad_row(row, length, plan.padding_side, filling) for row in rows]
    data = padded[0] if single else {key: [row[key] for row in padded] for key in padded[0]}
    return BatchEncoding(data, tensor_type=return_tensors)


def _rows(fields: dict[str, Any], count: int) -> list[dict[str, Any]]:
    for key, value in fields.items():
        if not isinstance(value, list) or len(value) != count:
            raise ValueError(
                f"pad: expected {count} rows in {key!r}, got {len(value) if isinstance(value, list) else value!r}"
            )
    return [{key: value[i] for key, value in fields.items()} for i in range(count)]


def _tensor_type(main: Any) -> str | None:
    first = main[0] if isinstance(main, list | tuple) and main else main
    kinds = {"torch": "pt", "numpy": "np"}
    return kinds.get(type(first).__module__.split(".")[0])
