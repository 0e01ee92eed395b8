"""Padding of encodings that were made one by one, as a data loader's collate_fn does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from minitrans.tokenizers.batch_encoding import BatchEncoding
from minitrans.tokenizers.call import LengthPlan


def pad_batch(
    encoded: Any, plan: LengthPlan, fills: Mapping[str, int | None], with_mask: bool, return_tensors: str | None
) -> BatchEncoding:
    """Pads the fields that `fills` names, which differ from row to row in length; other fields pass as they are.

    Args:
        encoded: a list of encodings (dicts), or one dict of a row or of a list of rows. It is not changed.
        plan: padding strategy, length and side; truncation plays no part.
        fills: field -> what to pad it with; the first one, input_ids, must be there.
        with_mask: whether to add an attention_mask where there is none.
        return_tensors: "pt", "np" or None (tensors in, tensors of the same kind out).

    Raises:
        TypeError, ValueError: if the encodings are of the wrong type, lack input_ids, or differ in fields or sizes.
    """
    name = next(iter(fills))
    for error, what in _faults_of(encoded, name):
        raise error(f"pad: {what}")
    fields = (
        dict(encoded) if isinstance(encoded, Mapping) else {key: [row[key] for row in encoded] for key in encoded[0]}
    )
    return_tensors = return_tensors or _tensor_type(fields[name])
    fields = {key: _plain(value) for key, value in fields.items()}
    for error, what in _faults_of_fields(fields, name):
        raise error(f"pad: {what}")
    single = not _is_nested(fields[name])
    rows = [fields] if single else [dict(zip(fields, row, strict=True)) for row in zip(*fields.values(), strict=True)]
    longest, multiple = max(len(row[name]) for row in rows), plan.pad_to_multiple_of or 1
    length = {None: 0, "longest": longest, "max_length": plan.max_length or 0}[plan.padding] if fields[name] else 0
    length = -(-length // multiple) * multiple
    for row in rows:
        if with_mask:
            row.setdefault("attention_mask", [1] * len(row[name]))
        extra = length - len(row[name])
        for key in fills.keys() & row.keys():
            fill = [fills[key]] * extra
            if not _is_nested(row[key]):  # such as a mask (T, T)
                row[key] = row[key] + fill if plan.padding_side == "right" else fill + row[key]
    data = rows[0] if single else {key: [row[key] for row in rows] for key in rows[0]}
    return BatchEncoding(data, tensor_type=return_tensors)


def _faults_of(encoded: Any, name: str) -> Iterator[tuple[type[Exception], str]]:
    """Says of what was given if it is no encoding, no list of them, or one without the field `name`."""
    rows = [encoded] if isinstance(encoded, Mapping) else encoded
    is_list = isinstance(rows, Sequence) and not isinstance(rows, str)
    if not is_list or not all(isinstance(row, Mapping) for row in rows):
        yield TypeError, f"expected an encoding or a list of encodings, got {type(encoded).__name__}"
    if not rows:
        yield ValueError, "expected at least one encoding, got an empty list"
    for number, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            yield ValueError, f"encoding {number} has the fields {sorted(row)}, expected {sorted(rows[0])}"
        if row.get(name) is None:
            yield ValueError, f"expected the field {name!r}, got {sorted(row)}"


def _faults_of_fields(fields: Mapping[str, Any], name: str) -> Iterator[tuple[type[Exception], str]]:
    """Says if the ids are no list, or a field of a batch has another number of rows than they have."""
    main = fields[name]
    if not isinstance(main, list):
        yield TypeError, f"expected a list of ids in {name!r}, got {type(main).__name__}"
    for key, value in fields.items():
        if _is_nested(main) and (not isinstance(value, list) or len(value) != len(main)):
            yield (
                ValueError,
                f"expected {len(main)} rows in {key!r}, got {len(value) if isinstance(value, list) else value}",
            )


def _plain(value: Any) -> Any:
    """Tensors and arrays as lists of Python numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _is_nested(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], list)


def _tensor_type(main: Any) -> str | None:
    first = main[0] if isinstance(main, list | tuple) and main else main
    return {"torch": "pt", "numpy": "np"}.get(type(first).__module__.split(".")[0])
