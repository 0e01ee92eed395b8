"""Our own check of a safetensors file before the library opens it: the header must describe the file exactly.

Stricter than the library in one point, keys that stand twice (which it accepts when both claim the same bytes), and with
messages that name the file, the tensor and both numbers. Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from minitrans.errors import CheckpointError
from minitrans.files import printable, refuse_impostor, require_regular_file
from weights_convert.plan import TensorInfo

MAX_HEADER_BYTES = 32 * 1024 * 1024  # about 200,000 tensors; the format allows 100 MB
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


@dataclass(frozen=True)
class Header:
    """The tensors of a safetensors file, and where in it the bytes of each begin."""

    tensors: dict[str, TensorInfo]
    begins: dict[str, int]


def read_header(path: Path) -> Header:
    """The checked header of a safetensors file. Raises CheckpointError, naming file and tensor, for any inconsistency."""
    size = require_regular_file(path).st_size
    with path.open("rb") as file:
        start = file.read(32)
        refuse_impostor(path, start)
        if len(start) < 8:
            _fail(path, f"expected a safetensors file of at least 8 bytes, found {size}")
        if start.startswith((b"PK\x03\x04", b"\x80")) and start[8:9] != b"{":
            _fail(path, "expected safetensors, found a pickle or zip archive under a wrong name")
        length = int.from_bytes(start[:8], "little")
        if length > MAX_HEADER_BYTES:
            _fail(path, f"expected a header of at most {MAX_HEADER_BYTES} bytes, found one that claims {length}")
        if 8 + length > size:
            _fail(path, f"expected {8 + length} bytes for the header alone, found a file of {size}: it is truncated")
        file.seek(8)
        raw = file.read(length)
    entries = _parse(path, raw)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _fail(path, "__metadata__: expected text values")
    if not entries:
        _fail(path, "expected tensors, found none")
    spans = {name: _span(path, name, entry) for name, entry in entries.items()}
    _require_tiling(path, spans, size - 8 - length)
    tensors = {
        name: TensorInfo(name, DTYPES[entry["dtype"]], tuple(entry["shape"]), path.name)
        for name, entry in entries.items()
    }
    return Header(tensors, {name: 8 + length + begin for name, (begin, _) in spans.items()})


def _fail(path: Path, what: str) -> NoReturn:
    raise CheckpointError(f"{printable(path)}: {what}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{printable(name)!r} stands twice")
    return entries


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        _fail(path, f"expected a JSON header that begins with '{{', found {printable(raw[:16])}")
    try:
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        _fail(path, f"expected a JSON header, found an error: {printable(error, 200)}")
    if not isinstance(entries, dict):
        _fail(path, f"expected a JSON object as header, found {type(entries).__name__}")
    return entries


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _span(path: Path, name: str, entry: object) -> tuple[int, int]:
    """Begin and end of a tensor's bytes, checked against its dtype and shape."""
    shown = printable(name)
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        _fail(path, f"{shown}: expected dtype, shape and data_offsets, found {printable(entry)}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        _fail(path, f"{shown}: expected a dtype of {', '.join(DTYPES)}, found {printable(dtype)}")
    if not isinstance(shape, list) or len(shape) > 64 or not all(_is_count(size) for size in shape):
        _fail(path, f"{shown}: expected a shape of sizes >= 0, found {printable(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(offset) for offset in offsets):
        _fail(path, f"{shown}: expected two data_offsets >= 0, found {printable(offsets)}")
    needed = DTYPES[dtype].itemsize
    for size in shape:
        needed *= size
    if offsets[1] - offsets[0] != needed:
        _fail(path, f"{shown}: expected {needed} bytes for {dtype} {printable(shape)}, found {offsets[1] - offsets[0]}")
    return offsets[0], offsets[1]


def _require_tiling(path: Path, spans: dict[str, tuple[int, int]], available: int) -> None:
    """The tensors must lie end to end, from the first byte after the header to the last of the file."""
    reached = 0
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != reached:
            _fail(path, f"{printable(name)}: expected to begin at byte {reached} of the data, found {begin}")
        reached = end
    if reached != available:
        _fail(path, f"expected {reached} bytes of tensors after the header, found {available}")
