"""Encoders on a CPU, side by side: minitrans, transformers (compiled too), ONNX Runtime, OpenVINO, CTranslate2 and torch alone.

    python -m benchmarks.cpu_encoders --texts stsb-en-test.csv --json

All embed the same tokenised sentences with the same checkpoint (mean of the token vectors). Each has a process of its own, the
runs are interleaved, figures are medians with quartiles; a provider whose vectors leave those of a float64 run is not timed, one
that is not installed is listed as absent with the reason. Work is spelled "sorted" (batches of similar length) or "unsorted".
With one thread, the default, seconds are those that the process had a processor (other work on the machine disturbs these least);
with more they are the clock's, since threads that wait for others count or not as each library likes.
Peers: extra `bench`.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.cpu_peers import PEERS, PRECISIONS
from benchmarks.measuring import quantiles
from benchmarks.options import AsJson, Results
from benchmarks.record import RESULTS, result_file, save
from benchmarks.sts import read_pairs
from benchmarks.tables import quartiles, shown, table
from minitrans.cli import errors, options

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
HEADING = (
    "provider", "tokens/s", "quartiles", "x transformers", "of the GEMM limit", "least cosine", "s to load", "peak MB",
)  # fmt: skip
BOUNDS = ("of ours", "best peer of its kind", "x that peer", "projections alone, x that peer")
LEAST_COSINE = 0.98  # below, a provider computes something else
_REST = 0.1  # seconds after which threads of the provider before have stopped waiting for work
LIMITS = "limits"  # the process that measures the projections alone


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


def linear_rate(width: int, hidden: int, tokens: int, dtype: str, seconds: Callable[[], float]) -> Callable[[], float]:
    """A measurement: how many tokens a second the projections of one block alone make, in oneDNN with packed weights."""
    shapes = ((3 * width, width), (width, width), (hidden, width), (width, hidden))
    calls = [_projection(shape, tokens, dtype) for shape in shapes]

    def measure() -> float:
        start = seconds()
        for call in calls:
            call()
        return tokens / (seconds() - start)

    return measure


def _projection(shape: tuple[int, int], tokens: int, dtype: str) -> Callable[[], Tensor]:
    """A product with a weight of `shape` (out, in); "int8" has inputs and outputs in 8 bits, nothing is quantised in the call."""
    if dtype != "int8":
        kind = getattr(torch, dtype)
        weight = torch.ops.mkldnn._reorder_linear_weight(torch.randn(shape).to(kind), None)
        x, bias = torch.randn(tokens, shape[1]).to(kind), torch.randn(shape[0]).to(kind)  # without a bias it is slower
        return partial(torch.ops.mkldnn._linear_pointwise, x, weight, bias, "none", [], "")
    weight = torch.ops.onednn.qlinear_prepack(torch.randint(-127, 128, shape, dtype=torch.int8), None)
    scales, zeros = torch.full(shape[:1], 0.01), torch.zeros(shape[0], dtype=torch.int32)
    x = torch.randint(0, 256, (tokens, shape[1]), dtype=torch.uint8)
    of_weight = (weight, scales, zeros, None)
    return partial(torch.ops.onednn.qlinear_pointwise, x, 0.01, 128, *of_weight, 1.0, 128, torch.uint8, "none", [], "")


@dataclass(frozen=True)
class Task:
    """What every provider is given."""

    folder: Path
    rows: list[list[int]]
    batch_size: int
    threads: int

    def seconds(self) -> float:
        """Of the clock that counts."""
        return time.process_time() if self.threads == 1 else time.perf_counter()

    def batches(self, order: str) -> list[Batch]:
        return batches_of(self.rows, self.batch_size, by_length=order == "sorted")


def serve(name: str, task: Task, pipe: Connection) -> None:
    """A provider in a process of its own, where no other's threads or memory get in its way; answers until told None."""
    torch.set_num_threads(task.threads)
    try:
        provider = PEERS[name](task.folder)
        with torch.no_grad():
            vectors(provider.run, task.batches("sorted")[:1])
    except Exception as error:  # a peer may fail in any way; the reason is part of the result
        pipe.send(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}")
        return
    pipe.send({"load_seconds": provider.load_seconds, "peak_mb": provider.peak_mb, "precision": provider.precision})
    with torch.no_grad():
        while (asked := pipe.recv()) is not None:
            what, order = asked
            batches = task.batches(order)
            time.sleep(_REST)
            vectors(provider.run, batches[:1])  # wakes its own threads and caches
            start = task.seconds()
            found = vectors(provider.run, batches)
            pipe.send(found.double().numpy() if what == "vectors" else task.seconds() - start)


def serve_limits(config: Any, task: Task, pipe: Connection) -> None:
    """The rates of the projections alone, each as tokens per second through all layers."""
    torch.set_num_threads(task.threads)
    tokens = sum(map(len, task.rows)) // len(task.batches("sorted"))
    sizes = (config.hidden_size, config.intermediate_size, tokens)
    limits = {kind: linear_rate(*sizes, kind, task.seconds) for kind in PRECISIONS}
    pipe.send({})
    while pipe.recv() is not None:
        for limit in limits.values():
            limit()
        pipe.send({kind: limit() / config.num_hidden_layers for kind, limit in limits.items()})


@contextmanager
def processes(names: list[str], config: Any, task: Task) -> Iterator[tuple[dict[str, Connection], dict[str, Any]]]:
    """Starts a process each. Yields the pipes to them, and what each said of itself."""
    context = get_context("spawn")
    pipes: dict[str, Connection] = {}
    said: dict[str, Any] = {}
    started = []
    for name in (LIMITS, *names):
        pipes[name], theirs = context.Pipe()
        target, first = (serve_limits, config) if name == LIMITS else (serve, name)
        process = context.Process(target=target, args=(first, task, theirs), daemon=True)
        process.start()
        theirs.close()
        started.append(process)
        said[name] = pipes[name].recv()
    try:
        yield pipes, said
    finally:
        for name, process in zip(pipes, started, strict=True):
            if not isinstance(said.get(name), str):
                pipes[name].send(None)
            process.join(timeout=30)


def ask(pipe: Connection, question: Any) -> Any:
    pipe.send(question)
    return pipe.recv()


def measure(
    pipes: dict[str, Connection], said: dict[str, Any], order: str, task: Task, exact: Tensor, repeats: int
) -> list[dict[str, Any]]:
    """A row per provider; those that compute something else are not timed."""
    tokens = sum(map(len, task.rows))
    rows: dict[str, dict[str, Any]] = {}
    for name, facts in said.items():
        if name == LIMITS or isinstance(facts, str):
            continue
        found = torch.from_numpy(ask(pipes[name], ("vectors", order)))
        cosine = torch.cosine_similarity(found, exact, dim=-1).min().item()
        rows[name] = {"provider": name, **facts, "cosine": cosine}
    timed = [name for name in rows if rows[name]["cosine"] >= LEAST_COSINE]
    rates: dict[str, list[float]] = {name: [] for name in timed}
    gemm: dict[str, list[float]] = {kind: [] for kind in PRECISIONS}
    for _ in range(repeats):
        for kind, rate in ask(pipes[LIMITS], "rates").items():
            gemm[kind].append(rate)
        for name in timed:
            rates[name].append(tokens / ask(pipes[name], ("seconds", order)))
    for name in timed:
        rows[name] |= {"tokens_per_second": quantiles(rates[name])}
        limit_rate = statistics.median(gemm[rows[name]["precision"]])
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
    threads: Annotated[int, typer.Option(min=1, help="Threads of every provider.")] = 1,
    only: Annotated[str | None, typer.Option(help="Names of providers, with commas.")] = None,
    as_json: AsJson = False,
    results: Results = RESULTS,
) -> None:
    """Print tokens per second of every provider.

    Beside the least cosine to float64, and seconds and peak memory of loading; a cosine below 0.98 is not timed.

    Examples:

        python -m benchmarks.cpu_encoders

        python -m benchmarks.cpu_encoders --texts stsb-en-test.csv --json
    """
    from minitrans import AutoConfig, AutoTokenizer
    from minitrans.cli.demo_steps import demo_folder

    target = result_file(results, "cpu_encoders") if as_json else None
    torch.set_num_threads(threads)
    folder = demo_folder() if model is None else model
    sentences = [text for p in read_pairs(texts) for text in (p.first, p.second)] if texts else built_in_texts()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [tokenizer(text, truncation=True, max_length=256)["input_ids"] for text in sentences[:count]]
    config = AutoConfig.from_pretrained(folder)
    names = [name for name in PEERS if only is None or name in only.split(",")]
    task = Task(folder, rows, batch_size, threads)
    exact = exact_vectors(folder, task.batches("sorted"))
    measured: dict[str, list[dict[str, Any]]] = {}
    with processes(names, config, task) as (pipes, said):
        absent = {name: facts for name, facts in said.items() if isinstance(facts, str)}
        for name, reason in absent.items():
            typer.echo(f"absent\t{name}\t{reason}")
        for order in ("sorted", "unsorted"):
            measured[order] = measure(pipes, said, order, task, exact, repeats)
            typer.echo(f"\n{order}\n{table(HEADING, list(map(_cells, measured[order])))}")
            typer.echo(f"\n{table(BOUNDS, bounds(measured[order]))}")
    work = {"sentences": len(rows), "tokens": sum(map(len, rows)), "batch_size": batch_size, "repeats": repeats}
    save(target, "cpu_encoders", **work, results=measured, absent=absent)


def bounds(rows: list[dict[str, Any]]) -> list[list[object]]:
    """Of each precision of ours: its rate and that of its projections alone, all else free, against the best peer of its kind."""
    rates = {row["provider"]: row["tokens_per_second"]["median"] for row in rows if "tokens_per_second" in row}
    found: list[list[object]] = []
    for row in rows:
        name, low = row["provider"], row["precision"] != "float32"
        if name not in rates or not name.startswith("minitrans prepared"):
            continue
        of_kind = {each["provider"] for each in rows if (each["precision"] != "float32") is low} & rates.keys()
        peers = {peer: rates[peer] for peer in of_kind if not peer.startswith("minitrans")}
        if peers:
            best = max(peers, key=peers.__getitem__)
            ours = rates[name] / peers[best]
            found.append([name, best, shown(ours), shown(ours / row["share_of_gemm"])])
    return found


def _cells(row: dict[str, Any]) -> list[object]:
    rate = row.get("tokens_per_second")
    figures = [row["cosine"], row["load_seconds"], row["peak_mb"]]
    if rate is None:
        return [row["provider"], "not timed", None, None, None, *figures]
    return [
        row["provider"],
        rate["median"],
        quartiles(rate),
        shown(row["ratio"]),
        shown(row["share_of_gemm"]),
        *figures,
    ]


if __name__ == "__main__":
    sys.exit(errors.run(app, "python -m benchmarks.cpu_encoders"))
