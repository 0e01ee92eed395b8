"""`embed` and `similar`: sentences as vectors."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minitrans.cli import options
from minitrans.cli.options import Runtime
from minitrans.cli.reading import checked, read_lines
from minitrans.cli.writing import json_numbers, progress, show

if TYPE_CHECKING:
    from minitrans.cli.line_file import LineFile
    from minitrans.embedding import Encoder

Lines = Annotated[str, typer.Argument(metavar="FILE", help="One text a line; - is standard input.")]
Pooling = Annotated[
    str | None,
    typer.Option(help="mean, cls, max, mean_sqrt_len, weightedmean or lasttoken; default: the model's own, else mean."),
]
Prompt = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Put this before every text; default: the model's own.")
]


def embed(
    file: Lines,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", metavar="PATH_OR_NAME", help="A checkpoint folder, or a name on the Hugging Face hub."
        ),
    ] = None,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FILE", help="A .npy, .jsonl or .parquet file; - prints JSON lines.")
    ] = "-",
    pooling: Pooling = None,
    prompt: Prompt = None,
    raw: Annotated[bool, typer.Option("--raw", help="Do not scale the vectors to length 1.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was killed.")] = False,
    join: Annotated[bool, typer.Option("--join", help="Only join what other processes have done.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds that rank 0 waits for a window of the others.")] = 600,
    force: options.Force = False,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    attention: options.AttentionName = None,
    backend: options.Backend = "auto",
    precision: options.Precision = None,
    batch_size: options.AutoBatchSize = None,
    threads: options.Threads = None,
) -> None:
    """Turn every line of a file into a vector: the mean over its tokens, of length 1.

    A folder of sentence-transformers says itself how to pool and where to cut. Vector i belongs to line i.
    Memory does not grow with the file. Until all is done the work is in FILE.parts beside the output.
    With torchrun, or RANK and WORLD_SIZE set, processes share the work; the output is the same for any number.

    Examples:

        minitrans embed sentences.txt --model ./minilm --out vectors.npy

        minitrans embed sentences.txt --model ./minilm --out vectors.npy --resume

        torchrun --nproc-per-node 4 -m minitrans embed sentences.txt --model ./minilm --out vectors.npy

        cut -f2 table.tsv | minitrans embed - --model ./minilm > vectors.jsonl
    """
    if not math.isfinite(wait):
        raise ValueError(f"--wait: expected a number of seconds, got {wait}")
    if model is None and not join:
        raise ValueError("missing option '--model' (see minitrans embed --help)")
    runtime = Runtime(
        model=model or "",
        device=device,
        dtype=dtype,
        attention=attention,
        backend=backend,
        precision=precision,
        threads=threads,
    )
    call: dict[str, Any] = {
        "pooling": pooling, "normalize": not raw, "batch_size": batch_size or "auto", "prompt": prompt
    }  # fmt: skip
    if out != "-":
        from minitrans.cli.embedding_run import Target, into_file

        into_file(file, Target(Path(out), resume=resume, join=join, force=force, wait=wait), runtime, call)
        return
    from minitrans.cli.line_file import LineFile
    from minitrans.cli.loading import load_encoder
    from minitrans.cli.world import world_from_environment

    if resume or join or world_from_environment().shared:
        raise ValueError("--out: expected a file for --resume, --join or several processes, got standard output")
    lines = LineFile(file)
    to_standard_output(lines, load_encoder(runtime), call)


def to_standard_output(lines: LineFile, encoder: Encoder, call: dict[str, Any]) -> None:
    """JSON lines, window by window."""
    from minitrans.cli.loading import note_truncated
    from minitrans.cli.vector_files import json_lines

    texts = (lines.read(window) for window in lines.windows)
    with progress("embedding", lines.lines) as advance:
        blocks = encoder.encode_windows(texts, advance=advance, **call)
        for window, block in zip(lines.windows, blocks, strict=True):
            sys.stdout.writelines(json_lines(lines.read(window), block.numpy()))
    note_truncated(encoder, lines.lines)


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
    precision: options.Precision = None,
    batch_size: options.AutoBatchSize = None,
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
        model=model,
        device=device,
        dtype=dtype,
        attention=attention,
        backend=backend,
        precision=precision,
        threads=threads,
    )
    from minitrans.cli.loading import load_encoder, note_truncated

    encoder = load_encoder(runtime)
    with progress("embedding", len(lines) + 1) as advance:
        texts = [query, *(line for _, line in lines)]
        vectors = encoder.encode(texts, pooling=pooling, batch_size=batch_size or "auto", show_progress=advance)
    note_truncated(encoder, len(texts))
    scores = (vectors[1:] @ vectors[0]).tolist()
    best = sorted(range(len(lines)), key=lambda index: (-scores[index], index))[:top_k]
    rows = [{"score": scores[index], "line": lines[index][0], "text": lines[index][1]} for index in best]
    show([json_numbers(row) for row in rows], as_json=as_json, title=query)
