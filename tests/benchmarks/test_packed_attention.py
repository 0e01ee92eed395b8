"""The benchmark of attention on packed batches: every way is right, and one that is wrong is not timed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import packed_attention as bench

SHAPE = ("--sequences", 4, "--heads", 2, "--width", 16, "--repeats", 2, "--threads", 1)


@pytest.fixture
def batch() -> bench.Batch:
    return bench.batch_of([5, 1, 9, 5], heads=2, width=16, dtype=torch.float32)


def test_its_rows(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CASES", {"words": ("words", 30), "half": (0.5, 16)})
    found = command(bench, *SHAPE)
    assert [(case["dtype"], case["lengths"]) for case in found["cases"]] == [
        (dtype, case) for dtype in ("float32", "bfloat16") for case in ("words", "half")
    ]
    for case in found["cases"]:
        rows = {row["way"]: row for row in case["rows"]}
        assert rows.keys() == bench.WAYS.keys()
        assert 0 < case["fill"] <= 1
        assert rows["padded"]["ratio_to_padded"] == 1
        for name in ("padded", "one by one", "by length", "shared rows"):
            row = rows[name]
            assert row["error"] <= bench.ALLOWED[case["dtype"]]
            assert 0 < row["ms_low"] <= row["ms"] <= row["ms_high"]
            assert row["tokens_per_second"] == pytest.approx(1e3 * case["tokens"] / row["ms"])
            assert row["plan_ms"] >= 0


def test_what_is_wrong_is_not_timed(batch: bench.Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(batch: bench.Batch, plan: object) -> torch.Tensor:
        raise NotImplementedError("not on this machine\nsecond line")

    wrong = bench.Way(lambda batch: None, lambda batch, _: 1.01 * bench.oracle(batch).float())
    monkeypatch.setattr(
        bench, "WAYS", {"padded": bench.WAYS["padded"], "wrong": wrong, "absent": bench.Way(lambda batch: None, refuse)}
    )
    right, wrong_row, absent = bench.measure(batch, "float32", 1)
    assert right["ms"] > 0
    assert "ms" not in wrong_row
    assert wrong_row["error"] == pytest.approx(0.01, rel=0.01)
    assert absent == {"way": "absent", "unserved": "NotImplementedError: not on this machine"}


def test_the_padded_batch_holds_the_packed_one(batch: bench.Batch) -> None:
    assert torch.equal(batch.padded[batch.real], batch.packed)
    assert batch.real.sum(1).tolist() == batch.lengths
    assert not batch.padded[~batch.real].any()
