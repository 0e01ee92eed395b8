"""`embed` and `similar`: sentences as vectors."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minitrans.cli import options
from minitrans.cli.errors import note
from minitrans.cli.options import Runtime, takes_model
from minitrans.cli.text import checked, progress, read_lines, show
from minitrans.files import printable

if TYPE_CHECKING:
    from minitrans.embedding import Encoder

Lines = Annotated[str, typer.Argument(metavar="FILE", help="One text a line; - is standard input.")]
Pooling = Annotated[
    str | None,
    typer.Option(
        help="mean, cls, max, mean_sqrt_len, weightedmean or lasttoken; default: the model's own, else mean.",
    ),
]
Prompt = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Put this before every text; default: the model's own.")
]


@takes_model(model=None)
def embed(
    runtime: Runtime,
    file: Lines,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FILE", help="A .npy, .jsonl or .parquet file; - prints JSON lines.")
    ] = "-",
    pooling: Pooling = None,
    prompt: Prompt = None,
    raw: Annotated[bool, typer.Option("--raw", help="Do not scale the vectors to length 1.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was killed.")] = False,
    join: Annotated[bool, typer.Option("--join", help="Only join what other processes have done.")] = False,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long rank 0 waits for a window of the others.")
    ] = 600,
    force: options.Force = False,
    precision: options.Precision = None,
) -> None:
    """Turn every line of a file into a vector: the mean over its tokens, of length 1.

    A folder of sentence-transformers says itself how to pool and where to cut. Vector i belongs to line i.
    Memory does not grow with the file. Until all is done the work is in FILE.parts beside the output.
    With torchrun, or RANK and WORLD_SIZE set, processes share the work; the output is the same for any number.

    Examples:

        minitrans embed sentences.txt --model ./minilm --out vectors.npy

        minitrans embed sentences.txt -m ./minilm -o vectors.npy --resume

        torchrun --nproc-per-node 4 -m minitrans embed a.txt -m ./m -o a.npy

        cut -f2 table.tsv | minitrans embed - -m ./minilm > vectors.jsonl
    """
    if not math.isfinite(wait):
        raise ValueError(f"--wait: expected a number of seconds, got {wait}")
    if runtime.model is None and not join:
        raise ValueError("missing option '--model' (see minitrans embed --help)")
    from minitrans.cli.loading import load_encoder
    from minitrans.embedding.jobs.job import Job, local_device

    call: dict[str, Any] = {
        "pooling": pooling, "normalize": not raw, "batch_size": runtime.batch_size or "auto", "prompt": prompt
    }  # fmt: skip
    job = Job(source=file, target=Path(out), resume=resume, join=join, force=force, wait=wait)
    if out == "-":
        if resume or join or job.size > 1:
            raise ValueError("--out: expected a file for --resume, --join or several processes, got standard output")
        to_standard_output(file, runtime, precision, call)
        return
    made = job.run(
        lambda: load_encoder(replace(runtime, device=local_device(runtime.device)), precision), call,
        {"backend": runtime.backend}, lambda total: progress("embedding", total), note,
    )  # fmt: skip
    if made is not None:
        typer.echo(f"{printable(job.target)}\t{made[0]} vectors of {made[1]} numbers")


def to_standard_output(file: str, runtime: Runtime, precision: str | None, call: dict[str, Any]) -> None:
    """JSON lines, window by window."""
    from minitrans.cli.loading import load_encoder
    from minitrans.embedding.jobs.lines import LineFile
    from minitrans.embedding.jobs.writers import json_lines

    lines = LineFile(file)
    encoder = load_encoder(runtime, precision)
    texts = (lines.read(window) for window in lines.windows)
    with progress("embedding", lines.lines) as advance:
        blocks = encoder.encode_windows(texts, advance=advance, **call)
        for window, block in zip(lines.windows, blocks, strict=True):
            sys.stdout.writelines(json_lines(lines.read(window), block.numpy()))
    _note_truncated(encoder, lines.lines)


@takes_model()
def similar(
    runtime: Runtime,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A text.")],
    file: Lines,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many lines to show.")] = 10,
    pooling: Pooling = None,
    as_json: options.AsJson = False,
    precision: options.Precision = None,
) -> None:
    """Rank the lines of a file by how close in meaning they are to a text.

    Columns: cosine, line number, text. Empty lines are left out.

    Examples:

        minitrans similar "late because of snow" lines.txt --model ./minilm

        minitrans similar "refund" faq.txt --model ./minilm --top-k 3 --json
    """
    checked(query, "QUERY")
    lines = [(number, line) for number, line in enumerate(read_lines(file), start=1) if line.strip()]
    from minitrans.cli.loading import load_encoder

    encoder = load_encoder(runtime, precision)
    with progress("embedding", len(lines) + 1) as advance:
        texts = [query, *(line for _, line in lines)]
        size = runtime.batch_size or "auto"
        vectors = encoder.encode(texts, pooling=pooling, normalize=True, batch_size=size, show_progress=advance)
    _note_truncated(encoder, len(texts))
    scores = (vectors[1:] @ vectors[0]).tolist()
    best = sorted(range(len(lines)), key=lambda index: (-scores[index], index))[:top_k]
    rows = [{"score": scores[index], "line": lines[index][0], "text": lines[index][1]} for index in best]
    show(rows, as_json=as_json, title=query)


def _note_truncated(encoder: Encoder, texts: int) -> None:
    if encoder.truncated:
        note(encoder.truncation_note(texts))
