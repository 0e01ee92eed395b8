"""Cost: what is counted, how it is fitted, and that the exact attention is measured beside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from minitrans.lab.bench import Bench
from minitrans.lab.cost import _memory, cost, efficient, exponent
from minitrans.lab.specs import read_subjects
from minitrans.layers.multi_head_attention import AttentionOutput
from tests.cli.conftest import Run

SHORT = {"shortest": 8, "longest": 32, "repeats": 1}


def test_operations_are_those_of_the_equation(bench: Bench):
    found = cost(bench, read_subjects(["sigmoid"])[0], 0, **SHORT)
    block = bench.attentions[0]
    width, heads = 24, block.num_heads
    for length, flops in zip(found["lengths"], found["exact"]["flops"], strict=True):
        forward = 2 * length * width * width * 4 + 2 * 2 * heads * length * length * block.head_width
        assert flops == 3 * forward  # backward: for each product two of its size
    assert found["own"]["flops"] == found["exact"]["flops"]
    assert found["lengths"] == [8, 16, 32]
    assert all(time > 0 for who in ("own", "exact") for key in ("forward", "both") for time in found[who][key])


class _Two(nn.Module):
    """Makes tensors of 4 n and 8 n bytes; at most both live."""

    def forward(self, x: torch.Tensor, context: object, cache: None):
        return AttentionOutput(torch.cat([x * 2, x * 3]))


def test_memory_counts_what_lives_at_once():
    x = torch.ones(1, 1000, 1)
    # backward: the join of 8,000 bytes, the gradients of both products and their sum of 4,000 each; two numbers of the sum
    assert _memory(_Two(), x) == 8_000 + 3 * 4_000 + 8


def test_memory_grows_as_the_scores_do(bench: Bench):
    found = cost(bench, read_subjects(["sigmoid"])[0], 0, shortest=64, longest=256, repeats=1)
    assert found["exponents"]["memory"] == pytest.approx(2.0, abs=0.3)
    linear = cost(bench, read_subjects(["linear"])[0], 0, shortest=64, longest=256, repeats=1)
    assert linear["exponents"]["flops"] == pytest.approx(1.0, abs=0.01)
    assert linear["efficient"]["flops"] is not None


def test_the_power_and_the_length_from_which_on():
    assert exponent([8, 16, 32, 64], [9.0, 1.0, 4.0, 16.0]) == pytest.approx(2.0)
    assert exponent([8], [1.0]) is None
    assert efficient([8, 16, 32], [1.0, 3.0, 3.0], [2.0, 2.0, 4.0]) == 32
    assert efficient([8, 16, 32], [1.0, 1.0, 3.0], [2.0, 2.0, 4.0]) == 8
    assert efficient([8, 16], [1.0, 3.0], [2.0, 2.0]) is None


def test_a_length_that_is_refused_ends_it(bench: Bench):
    found = cost(bench, read_subjects(["synthesizer_random"])[0], 0, shortest=8, longest=64, repeats=1)
    assert found["lengths"] == [8, 16, 32]  # the model reads 32 tokens
    assert found["ends"].startswith("64 tokens: ")
    with pytest.raises(ValueError, match="64 tokens"):
        cost(bench, read_subjects(["synthesizer_random"])[0], 0, shortest=64, longest=64)


def test_the_gate_comes_first_and_the_page_shows_all(body: str, data: Path, run: Run, tmp_path: Path):
    settings = "cost.shortest=8 cost.longest=16 cost.repeats=1 heal.transfer_steps=2 heal.tune_steps=2 heal.batch=2"
    settings += " fidelity.texts=2 fidelity.length=9 diagnostics.texts=2 diagnostics.length=9"
    words = [word for setting in settings.split() for word in ("--set", setting)]
    sections = ("--section", "swap,layers,fidelity,diagnostics,cost,heal")
    done = run("lab", "run", "sigmoid", "fnet", "-m", body, "--data", data, "-o", tmp_path, *sections, *words)
    assert done.code == 0, done
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(row["variant"], row["section"]) for row in rows[:3]] == [
        ("full", "diagnostics"), ("full", "heal"), ("sigmoid", "gate")
    ]  # fmt: skip
    assert {row["status"] for row in rows} == {"ok"}
    page = (tmp_path / "report.html").read_text()
    for title in (
        "Swapped in all layers",
        "One layer",
        "Fidelity",
        "Diagnostics",
        "Cost",
        "Score against time",
        "Healed",
    ):
        assert title in page
    for row in rows:
        if row["section"] == "heal":
            assert f"{row['score']:.2f}" in page
    assert page.count("<svg") >= 10
