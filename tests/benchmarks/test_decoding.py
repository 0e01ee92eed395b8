"""The benchmark of decoding: its rows, and that caches which disagree are not shown."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import decoding


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    monkeypatch.setattr(decoding, "SIZES", sizes)


def test_its_rows(command: Any) -> None:
    found = command(decoding, "--step", 3, "--step", 12, "--window", 4)
    assert [(row["cache"], row["step"]) for row in found["rows"]] == [
        (cache, step) for cache in decoding.CACHES for step in (3, 12)
    ]
    assert (found["window"], found["threads"], found["attention"]) == (4, 1, "full")
    for row in found["rows"]:
        assert 0 < row["ms"]["low"] <= row["ms"]["median"] <= row["ms"]["high"]
        assert row["ratio"] > 0


def test_any_attention_decodes(
    command: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(model: Any, length: int) -> Any:
        raise ValueError("not with a window")

    monkeypatch.setattr(decoding, "CACHES", {"growing": decoding.CACHES["growing"], "other": refuse})
    found = command(decoding, "--step", 4, "--window", 4, "--attention", '{"name": "sliding_window", "window": 4}')
    assert found["attention"] == {"name": "sliding_window", "window": 4}
    assert [row["cache"] for row in found["rows"]] == ["growing", "other"]
    assert found["rows"][1] == {"cache": "other", "unserved": "not with a window"}
    assert "not with a window" in capsys.readouterr().out


def test_caches_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    model = decoding.build(12)
    growing = decoding.CACHES["growing"]
    monkeypatch.setattr(decoding, "CACHES", {"growing": growing, "other": growing})
    lengths: list[int] = []

    def wrong(tokens: torch.Tensor, past_key_values: Any, use_cache: bool) -> Any:
        lengths.append(0 if past_key_values is None else past_key_values.get_seq_length())
        shift = 1 if len(lengths) == 20 else 0  # one token of the last text
        return model(tokens + shift, past_key_values=past_key_values, use_cache=use_cache)

    rows = decoding.measure(model, [2, 6], 4)
    assert [(row["cache"], row["step"]) for row in rows] == [("growing", 2), ("growing", 6), ("other", 2), ("other", 6)]
    with pytest.raises(ValueError, match="the cache 'other' decodes other tokens until step 6 than 'growing'"):
        decoding.measure(wrong, [2, 6], 4)
    # each text comes to its step, then they take turns
    assert lengths == [0, 0, 1, 2, 3, 0, 0, 1, 2, 3, *(n + at for n in range(4) for at in (1, 4, 1, 4))]
