"""The benchmark of encoders on a CPU: its rows, its batches, the limits it is held against, and that what is wrong is not timed."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import cpu_encoders, cpu_peers

ROWS = [[2, 5, 6, 3], [2, 7, 3], [2, 8, 9, 10, 11, 3], [2, 3]]


@pytest.mark.slow
def test_its_rows(tiny_bert: Path, command: Any) -> None:
    ours = ["minitrans", "minitrans prepared float32", "minitrans prepared bfloat16"]
    options = ("--count", 6, "--batch-size", 4, "--repeats", 2, "--threads", 1)
    found = command(cpu_encoders, "--model", tiny_bert, "--only", ",".join(ours), *options)
    assert (found["sentences"], found["batch_size"], found["repeats"], found["threads"]) == (6, 4, 2, 1)
    assert found["tokens"] > 12
    assert found["absent"] == {}
    assert found["results"].keys() == {"sorted", "unsorted"}
    for rows in found["results"].values():
        assert [row["provider"] for row in rows] == ours
        assert [row["precision"] for row in rows] == ["float32", "float32", "bfloat16"]
        for row in rows:
            rate = row["tokens_per_second"]
            assert 0 < rate["low"] <= rate["median"] <= rate["high"]
            assert row["cosine"] == pytest.approx(1, abs=1e-3)
            assert 0 < row["share_of_gemm"] < 1
            assert row["ratio"] is None  # transformers is not there to compare with
            assert 0 < row["load_seconds"] < 60
            assert row["peak_mb"] is None or -1 <= row["peak_mb"] < 1000


def test_batches_hold_every_sentence_once() -> None:
    for by_length in (True, False):
        batches = cpu_encoders.batches_of(ROWS, 3, by_length=by_length)
        assert sorted(number for batch in batches for number in batch.numbers) == [0, 1, 2, 3]
        for batch in batches:
            assert batch.ids == [ROWS[number] for number in batch.numbers]
            assert batch.mask.sum(1).tolist() == [len(row) for row in batch.ids]
            assert [row[mask.bool()].tolist() for row, mask in zip(batch.padded, batch.mask, strict=True)] == batch.ids
    lengths = [len(row) for batch in cpu_encoders.batches_of(ROWS, 3, by_length=True) for row in batch.ids]
    assert lengths == sorted(lengths)


def test_vectors_are_means_in_the_order_of_the_sentences() -> None:
    batches = cpu_encoders.batches_of(ROWS, 3, by_length=True)
    found = cpu_encoders.vectors(lambda batch: batch.padded[..., None].double(), batches)
    assert found.flatten().tolist() == pytest.approx([sum(row) / len(row) for row in ROWS])


@pytest.mark.parametrize("precision", cpu_peers.PRECISIONS)
def test_limits_are_rates(precision: str) -> None:
    ticks = iter((1.0, 3.0))
    measure = cpu_encoders.linear_rate(16, 32, 8, precision, lambda: next(ticks))
    assert measure() == 4  # tokens a second


@pytest.mark.parametrize("threads", [1, 2])
def test_one_thread_is_timed_by_its_own_processor_seconds(threads: int) -> None:
    task = cpu_encoders.Task(Path(), ROWS, 2, threads)
    start = task.seconds()
    time.sleep(0.2)
    assert (task.seconds() - start < 0.1) == (threads == 1)


class Pipe:
    """A provider in this process, whose vectors are those of `exact`, times `noise` more of something else."""

    def __init__(self, exact: torch.Tensor, noise: float) -> None:
        self.found = exact + noise * torch.randn(exact.shape, generator=torch.Generator().manual_seed(0))
        self.asked: list[Any] = []

    def send(self, question: Any) -> None:
        self.asked.append(question)

    def recv(self) -> Any:
        what = self.asked[-1]
        if what == "rates":
            return dict.fromkeys(cpu_peers.PRECISIONS, 100.0)
        return self.found.double().numpy() if what[0] == "vectors" else 0.5


def test_what_computes_something_else_is_not_timed() -> None:
    exact = torch.randn(4, 8, generator=torch.Generator().manual_seed(1)).double()
    pipes = {cpu_encoders.LIMITS: Pipe(exact, 0), "transformers float32": Pipe(exact, 0), "wrong": Pipe(exact, 1.0)}
    facts = {"load_seconds": 1.0, "peak_mb": 1.0, "precision": "float32"}
    said = {cpu_encoders.LIMITS: {}, "transformers float32": facts, "wrong": facts, "absent": "ImportError: no module"}
    task = SimpleNamespace(rows=ROWS)
    right, wrong = cpu_encoders.measure(pipes, said, "sorted", task, exact, 3)  # type: ignore[arg-type]
    assert right["tokens_per_second"]["median"] == 15 / 0.5
    assert right["share_of_gemm"] == pytest.approx(0.3)
    assert right["ratio"] == 1
    assert wrong["cosine"] < cpu_encoders.LEAST_COSINE
    assert "tokens_per_second" not in wrong
    assert [what for what, _ in pipes["wrong"].asked] == ["vectors"]


@pytest.mark.parametrize("when", ["build", "run"])
def test_a_peer_that_is_not_there_says_why(when: str, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> Any:
        raise ImportError("no module named there\nand more")

    peers = {"absent": fail if when == "build" else lambda folder: SimpleNamespace(run=fail)}
    said: list[Any] = []
    monkeypatch.setattr(cpu_encoders, "PEERS", peers)
    task = cpu_encoders.Task(tiny_bert, ROWS, 2, torch.get_num_threads())
    cpu_encoders.serve("absent", task, SimpleNamespace(send=said.append))  # type: ignore[arg-type]
    assert said == ["ImportError: no module named there"]


def test_what_the_projections_alone_would_permit() -> None:
    def row(name: str, precision: str, rate: float, share: float) -> dict[str, Any]:
        return {"provider": name, "precision": precision, "tokens_per_second": {"median": rate}, "share_of_gemm": share}

    rows = [
        row("a", "float32", 10.0, 0.5), row("b", "float32", 20.0, 0.5), row("c", "int8", 50.0, 0.5),
        {"provider": "d", "precision": "float32", "cosine": 0.1}, row("minitrans", "float32", 30.0, 0.5),
        row("minitrans prepared float32", "float32", 40.0, 0.8), row("minitrans prepared int8", "int8", 60.0, 0.6),
    ]  # fmt: skip
    assert cpu_encoders.bounds(rows) == [
        ["minitrans prepared float32", "b", "2.00", "2.50"],
        ["minitrans prepared int8", "c", "1.20", "2.00"],
    ]
    assert cpu_encoders.bounds(rows[-1:]) == []
