"""Vectors to files: .npy, .jsonl and .parquet, a block at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from minitrans.files import printable

Blocks = Iterable[tuple[list[str], np.ndarray]]  # the texts of a window, and their vectors (n, D)


def check_name(path: Path) -> None:
    """Raises ValueError for a name that no writer is known for, or whose writer is not installed."""
    if path.suffix not in WRITERS:
        raise ValueError(f"--out: expected a name that ends in .npy, .jsonl or .parquet, got {printable(path)!r}")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ValueError("--out: .parquet needs pyarrow: pip install 'minitrans[parquet]', or write .npy or .jsonl")


def json_lines(texts: list[str], vectors: np.ndarray) -> Iterator[str]:
    """A line for each text: itself and its vector, with the seven decimals that float32 has."""
    for text, vector in zip(texts, vectors.tolist(), strict=True):
        row = {"text": text, "vector": [round(value, 7) for value in vector]}
        yield json.dumps(row, ensure_ascii=False) + "\n"


def _write_npy(path: Path, blocks: Blocks, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """The bytes of numpy.save, without having it all in memory."""
    with path.open("wb") as stream:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for _, block in blocks:
            stream.write(block.tobytes())


def _write_jsonl(path: Path, blocks: Blocks, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for texts, block in blocks:
            stream.writelines(json_lines(texts, block))


def _write_parquet(path: Path, blocks: Blocks, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Columns text and vector (a list of fixed size), a row group for each window."""
    import pyarrow as pa
    from pyarrow import parquet

    vector = pa.list_(pa.from_numpy_dtype(dtype), shape[1])
    schema = pa.schema([("text", pa.string()), ("vector", vector)])
    with parquet.ParquetWriter(path, schema) as writer:
        for texts, block in blocks:
            column = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), type=vector)
            writer.write_table(
                pa.table([pa.array(texts, pa.string()), column], schema=schema), row_group_size=len(texts)
            )


# by the end of the name: (path, blocks, (N, D), dtype) -> one file
WRITERS: dict[str, Callable[[Path, Blocks, tuple[int, int], np.dtype[Any]], None]] = {
    ".npy": _write_npy,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
