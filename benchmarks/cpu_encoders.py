"""Encoders on a CPU, side by side: minitrans, transformers, ONNX Runtime, CTranslate2 and torch's own encoder.

    python -m benchmarks.cpu_encoders --texts stsb-en-test.csv --json

All embed the same tokenised sentences with the same checkpoint (mean of the token vectors). The runs are interleaved, figures are
medians with quartiles; a provider whose vectors leave those of a float64 run is not timed, one that is not installed is listed as
absent with the reason. Work is spelled "sorted" (batches of similar length) or "unsorted". Peers: extra `bench`.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.cpu_peers import PEERS, BuiltModel
from benchmarks.sts import RESULTS, environment, read_pairs
from minitrans.cli import guard, options
from minitrans.cli.writing import require_writable
from minitrans.files import write_json

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
SUBJECTS = (
    "The old sailor",
    "A committee of experts",
    "My neighbour's dog",
    "The first violin",
    "Nobody in the village",
)
VERBS = ("waited for", "wrote a long and rather bitter letter about", "forgot", "was looking at", "paid for")
OBJECTS = (
    "rain.",
    "the last train to the coast.",
    "a small red house with a view of the harbour and its two lighthouses.",
)
LEAST_COSINE = 0.98  # below, a provider computes something else
PACKAGES = ("transformers", "onnxruntime", "onnx", "ctranslate2")


@dataclass(frozen=True)
class Batch:
    """Rows of token ids, the same padded, and which sentences they are."""

    numbers: list[int]
    ids: list[list[int]]
    padded: Tensor
    mask: Tensor


def built_in_texts() -> list[str]:
    return [f"{subject} {verb} {thing}" for subject in SUBJECTS for verb in VERBS for thing in OBJECTS]


def batches_of(rows: list[list[int]], size: int, *, by_length: bool) -> list[Batch]:
    """The rows in batches of `size`, in their order or sorted by length."""
    order = sorted(range(len(rows)), key=lambda n: len(rows[n])) if by_length else list(range(len(rows)))
    batches = []
    for start in range(0, len(order), size):
        numbers = order[start : start + size]
        ids = [rows[number] for number in numbers]
        longest = max(map(len, ids))
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
        batches.append(Batch(numbers, ids, padded, mask))
    return batches


def vectors(run: Callable[[Batch], Tensor], batches: list[Batch]) -> Tensor:
    """(sentences, D): the mean of the token vectors of each."""
    parts, numbers = [], []
    for batch in batches:
        hidden = run(batch)  # (B, T, D)
        weights = batch.mask[..., None].to(hidden.dtype)
        parts.append((hidden * weights).sum(dim=1) / weights.sum(dim=1))
        numbers.extend(batch.numbers)
    return torch.cat(parts)[torch.tensor(numbers).argsort()]


def linear_rate(width: int, hidden: int, tokens: int, dtype: torch.dtype) -> Callable[[], float]:
    """A measurement: how many tokens a second the projections of one block alone make, in oneDNN with packed weights."""
    shapes = ((3 * width, width), (width, width), (hidden, width), (width, hidden))
    weights = [torch.ops.mkldnn._reorder_linear_weight(torch.randn(shape).to(dtype), None) for shape in shapes]
    inputs = [torch.randn(tokens, shape[1]).to(dtype) for shape in shapes]

    def measure() -> float:
        start = time.perf_counter()
        for x, weight in zip(inputs, weights, strict=True):
            torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        return tokens / (time.perf_counter() - start)

    return measure


def quartiles(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"low": low, "median": middle, "high": high}


def built(folder: Path, wanted: str | None) -> Iterator[tuple[str, BuiltModel | str]]:
    """(name, the built provider or why it is absent) of each."""
    for name, build in PEERS.items():
        if wanted is not None and name not in wanted.split(","):
            continue
        try:
            yield name, build(folder)
        except Exception as error:  # a peer may fail in any way; the reason is part of the result
            yield name, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"


@torch.no_grad()
def measure(
    providers: dict[str, BuiltModel], batches: list[Batch], exact: Tensor, repeats: int, config: Any
) -> list[dict[str, Any]]:
    """A row per provider; those that compute something else are not timed."""
    tokens = sum(len(row) for batch in batches for row in batch.ids)
    mean = tokens // len(batches)
    limits = {
        kind: linear_rate(config.hidden_size, config.intermediate_size, mean, kind)
        for kind in (torch.float32, torch.bfloat16)
    }
    rows: dict[str, dict[str, Any]] = {}
    for name, provider in providers.items():
        cosine = torch.cosine_similarity(vectors(provider.run, batches).double(), exact, dim=-1).min().item()
        rows[name] = {
            "provider": name,
            "load_seconds": provider.load_seconds,
            "peak_mb": provider.peak_mb,
            "cosine": cosine,
        }
    timed = [name for name in rows if rows[name]["cosine"] >= LEAST_COSINE]
    rates: dict[str, list[float]] = {name: [] for name in timed}
    gemm: dict[torch.dtype, list[float]] = {kind: [] for kind in limits}
    for _ in range(repeats):
        for kind, limit in limits.items():
            limit()
            gemm[kind].append(limit() / config.num_hidden_layers)
        for name in timed:
            start = time.perf_counter()
            vectors(providers[name].run, batches)
            rates[name].append(tokens / (time.perf_counter() - start))
    for name in timed:
        limit_rate = statistics.median(gemm[torch.bfloat16 if providers[name].low_precision else torch.float32])
        rows[name] |= {"tokens_per_second": quartiles(rates[name])}
        rows[name]["share_of_gemm"] = rows[name]["tokens_per_second"]["median"] / limit_rate
    base = rows.get("transformers float32", {}).get("tokens_per_second", {}).get("median")
    for name in timed:
        rows[name]["ratio"] = rows[name]["tokens_per_second"]["median"] / base if base else None
    return list(rows.values())


def exact_vectors(folder: Path, batches: list[Batch]) -> Tensor:
    from minitrans import AutoModel

    net: Any = AutoModel.from_pretrained(folder, dtype=torch.float64)
    with torch.no_grad():
        return vectors(lambda batch: net(batch.padded, batch.mask, padding="keep").last_hidden_state, batches)


@app.command()
def main(
    texts: Annotated[
        Path | None, typer.Option(help="A file of the STS benchmark; default: built-in sentences.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="A folder of a BERT checkpoint; default: the demo's.")] = None,
    count: Annotated[int, typer.Option(min=2, help="Sentences at most.")] = 640,
    batch_size: options.BatchSize = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each.")] = 9,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every provider.")] = 2,
    only: Annotated[str | None, typer.Option(help="Names of providers, with commas.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write a dated JSON file.")] = False,
    results: Annotated[Path, typer.Option(metavar="FOLDER", help="Where that goes.")] = RESULTS,
    force: options.Force = False,
) -> None:
    """Print tokens per second of every provider.

    Columns: order, provider, tokens/s, its quartiles, ratio to transformers, share of the GEMM limit, least cosine to float64,
    seconds to load, peak memory in MB.

    Examples:

        python -m benchmarks.cpu_encoders

        python -m benchmarks.cpu_encoders --texts stsb-en-test.csv --repeats 15 --json
    """
    from minitrans import AutoConfig, AutoTokenizer
    from minitrans.cli.demo_steps import demo_folder

    now = datetime.now(UTC)
    target = results / f"cpu-encoders-{now:%Y-%m-%d}.json"
    if as_json:
        require_writable(target, force=force)
    torch.set_num_threads(threads)
    folder = demo_folder() if model is None else model
    sentences = [text for p in read_pairs(texts) for text in (p.first, p.second)] if texts else built_in_texts()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [tokenizer(text, truncation=True, max_length=256)["input_ids"] for text in sentences[:count]]
    config = AutoConfig.from_pretrained(folder)
    providers, absent = {}, {}
    for name, found in built(folder, only):
        if isinstance(found, str):
            absent[name] = found
            typer.echo(f"absent\t{name}\t{found}")
        else:
            providers[name] = found
    exact = exact_vectors(folder, batches_of(rows, batch_size, by_length=True))
    measured: dict[str, list[dict[str, Any]]] = {}
    for order in ("sorted", "unsorted"):
        batches = batches_of(rows, batch_size, by_length=order == "sorted")
        measured[order] = measure(providers, batches, exact, repeats, config)
        for row in measured[order]:
            typer.echo(f"{order}\t" + "\t".join(_cells(row)))
    if as_json:
        found_versions = {
            name: version(name) for name in PACKAGES if not any(name in reason for reason in absent.values())
        }
        write_json(target, {
            "benchmark": "cpu_encoders", "date": now.isoformat(timespec="seconds"), "sentences": len(rows),
            "tokens": sum(map(len, rows)), "batch_size": batch_size, "repeats": repeats, "results": measured, "absent": absent,
            "capability": torch.backends.cpu.get_cpu_capability(), "peers": found_versions, **environment("cpu"),
        })  # fmt: skip
        typer.echo(str(target))


def _cells(row: dict[str, Any]) -> list[str]:
    rate = row.get("tokens_per_second")
    if rate is None:
        return [row["provider"], f"not timed: cosine {row['cosine']:.4f}"]
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
    return [
        row["provider"], f"{rate['median']:.0f}", f"{rate['low']:.0f}..{rate['high']:.0f}", ratio, f"{row['share_of_gemm']:.2f}",
        f"{row['cosine']:.4f}", f"{row['load_seconds']:.2f}", "-" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}",
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(guard.run(app, "python -m benchmarks.cpu_encoders"))
