"""The benchmark of padding: its fields, its lengths, and that runs which disagree are not timed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import padding
from minitrans import AutoModel


@pytest.mark.parametrize(
    "attention", ["rotary", {"name": "sliding_window", "window": 4}, "minitrans.attention.variants.rotary:Rotary"]
)
def test_its_rows(attention: Any, tiny_bert: Path, command: Any) -> None:
    given = attention if isinstance(attention, str) else json.dumps(attention)
    options = ("--batch", 4, "--longest", 16, "--repeats", 2, "--threads", 1, "--attention", given)
    found = command(padding, "--model", tiny_bert, *options)
    assert found["attention"] == attention
    assert (found["batch"], found["longest"], found["repeats"], found["threads"]) == (4, 16, 2, 1)
    fills = [row["fill"] for row in found["rows"]]
    assert fills == sorted(fills)
    assert len(fills) == 3
    for row in found["rows"]:
        assert row["ratio"] == pytest.approx(row["remove"] / row["keep"])
        for mode in padding.MODES:
            assert 0 < row[f"{mode}_low"] <= row[mode] <= row[f"{mode}_high"]


@pytest.mark.parametrize("fill", [0.2, 0.5, 0.9])
def test_lengths_fill_as_asked(fill: float) -> None:
    lengths = padding.lengths_of_fill(fill, 64, 128)
    assert len(lengths) == 64
    assert max(lengths) == 128
    assert min(lengths) >= 1
    assert sum(lengths) / (64 * 128) == pytest.approx(fill, abs=0.05)


def test_runs_that_differ_are_not_timed(tiny_bert: Path) -> None:
    net = AutoModel.from_pretrained(tiny_bert)

    def wrong(ids: torch.Tensor, mask: torch.Tensor, padding: str) -> Any:
        out = net(ids, mask, padding=padding)
        if padding == "remove":
            out.last_hidden_state = out.last_hidden_state * 1.001
        return out

    wrong.config = net.config  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="differ by .*nothing was timed"):
        padding.measure(wrong, 0.5, 4, 16, 1)
