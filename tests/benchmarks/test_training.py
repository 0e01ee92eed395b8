"""The benchmark of training: its fields, that both models learn alike, and that models which do not are not timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import training


def test_its_rows(tiny_bert: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(training, "memory_of", lambda *given: 1.0)
    options = ("--batch", 4, "--steps", 2, "--equal-steps", 3, "--longest", 12, "--threads", 1, "--mixes", "sst2")
    found = command(training, "--model", tiny_bert, *options)
    assert found["gap"] <= training.EQUAL
    (row,) = found["rows"]
    assert 0 < row["fill"] <= 1
    assert row["ratio"] > 0
    assert [each["step"] for each in found["memory"]] == list(training.MEMORY)


def test_models_that_learn_otherwise_are_found_out(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    batches = training.draw("sst2", 3, 4, 12)
    assert training.largest_gap(str(tiny_bert), batches) <= training.EQUAL

    def other(folder: str, dtype: torch.dtype, both: Any = training.both) -> Any:
        models = both(folder, dtype)
        models["minitrans"].classifier.weight.data *= 1.001
        return models

    monkeypatch.setattr(training, "both", other)
    assert training.largest_gap(str(tiny_bert), batches) > training.EQUAL
