"""`embed` and `similar`: sentences as vectors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minitrans.cli import options
from minitrans.cli.guard import note
from minitrans.cli.options import Runtime
from minitrans.cli.reading import checked, read_lines
from minitrans.cli.writing import json_numbers, progress, require_writable, show
from minitrans.files import atomic_write, printable

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".npy", ".jsonl")
Lines = Annotated[str, typer.Argument(metavar="FILE", help="One text a line; - is standard input.")]
Pooling = Annotated[
    str | None, typer.Option(help="mean, cls or max; default: what the model's folder says, else mean.")
]


def embed(
    file: Lines,
    model: options.Model,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FILE", help="vectors.npy or vectors.jsonl; - prints JSON lines.")
    ] = "-",
    pooling: Pooling = None,
    raw: Annotated[bool, typer.Option("--raw", help="Do not scale the vectors to length 1.")] = False,
    force: options.Force = False,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    attention: options.AttentionName = None,
    backend: options.Backend = "auto",
    batch_size: options.BatchSize = 32,
    threads: options.Threads = None,
) -> None:
    """Turn every line of a file into a vector: the mean over its tokens, of length 1.

    A folder of sentence-transformers says itself how to pool and where to cut. Vector i belongs to line i.

    Examples:

        minitrans embed sentences.txt --model ./minilm --out vectors.npy

        cut -f2 table.tsv | minitrans embed - --model ./minilm > vectors.jsonl
    """
    target = None if out == "-" else Path(out)
    if target is not None:
        if target.suffix not in SUFFIXES:
            raise ValueError(f"--out: expected a name that ends in {' or '.join(SUFFIXES)}, got {printable(out)!r}")
        require_writable(target, force=force, source=file)
    texts = read_lines(file)
    runtime = Runtime(
        model=model, device=device, dtype=dtype, attention=attention, backend=backend, batch_size=batch_size,
        threads=threads,
    )  # fmt: skip
    vectors = encode(texts, runtime, pooling, normalize=not raw)
    if target is None:
        for line in _json_lines(texts, vectors):
            sys.stdout.write(line)
        return
    with atomic_write(target) as temporary:
        if target.suffix == ".npy":
            import numpy as np

            with temporary.open("wb") as stream:
                np.save(stream, vectors.numpy())
        else:
            with temporary.open("w", encoding="utf-8") as lines:
                lines.writelines(_json_lines(texts, vectors))
    typer.echo(f"{printable(out)}\t{vectors.shape[0]} vectors of {vectors.shape[1]} numbers")


def similar(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A text.")],
    file: Lines,
    model: options.Model,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many lines to show.")] = 10,
    pooling: Pooling = None,
    as_json: options.AsJson = False,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    attention: options.AttentionName = None,
    backend: options.Backend = "auto",
    batch_size: options.BatchSize = 32,
    threads: options.Threads = None,
) -> None:
    """Rank the lines of a file by how close in meaning they are to a text.

    Columns: cosine, line number, text. Empty lines are left out.

    Examples:

        minitrans similar "late because of snow" sentences.txt --model ./minilm

        minitrans similar "refund" faq.txt --model ./minilm --top-k 3 --json
    """
    checked(query, "QUERY")
    lines = [(number, line) for number, line in enumerate(read_lines(file), start=1) if line.strip()]
    runtime = Runtime(
        model=model, device=device, dtype=dtype, attention=attention, backend=backend, batch_size=batch_size,
        threads=threads,
    )  # fmt: skip
    vectors = encode([query, *(line for _, line in lines)], runtime, pooling, normalize=True)
    scores = (vectors[1:] @ vectors[0]).tolist()
    best = sorted(range(len(lines)), key=lambda index: (-scores[index], index))[:top_k]
    rows = [{"score": scores[index], "line": lines[index][0], "text": lines[index][1]} for index in best]
    show([json_numbers(row) for row in rows], as_json=as_json, title=query)


def encode(texts: list[str], runtime: Runtime, pooling: str | None, *, normalize: bool) -> Tensor:
    """(len(texts), D): loads the model, runs it with a progress bar, and says how many texts were cut."""
    from dataclasses import replace

    from minitrans.cli.loading import load
    from minitrans.embedding import POOLINGS, SentenceEncoder, read_recipe

    if pooling not in (None, *POOLINGS):
        raise ValueError(f"--pooling: expected one of {', '.join(POOLINGS)}, got {printable(pooling)!r}")
    recipe = read_recipe(runtime.model)
    loaded = load(runtime)
    encoder = SentenceEncoder(
        loaded.model, loaded.tokenizer, replace(recipe, pooling=pooling or recipe.pooling), normalize=normalize
    )
    with progress("embedding", len(texts)) as advance:
        vectors = encoder.encode(texts, batch_size=runtime.batch_size, progress=advance)
    if encoder.truncated:
        note(f"cut to {encoder.max_length} tokens: {encoder.truncated} of {len(texts)} texts")
    return vectors


def _json_lines(texts: list[str], vectors: Tensor) -> list[str]:
    return [
        json.dumps({"text": text, "vector": [round(value, 7) for value in vector]}, ensure_ascii=False) + "\n"
        for text, vector in zip(texts, vectors.tolist(), strict=True)
    ]
