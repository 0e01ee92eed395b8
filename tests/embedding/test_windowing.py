"""Where windows end and what batches hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minitrans.embedding import length_sorted_batches, windows
from minitrans.embedding.batching import Tokens, cell_batches, padded

LIMITS = "minitrans.embedding.windowing."


def test_windows_end_by_texts_or_characters(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(LIMITS + "MAX_TEXTS", 3)
    monkeypatch.setattr(LIMITS + "MAX_CHARACTERS", 10)
    texts = ["a", "b", "c", "d", "e" * 9, "f" * 2, "g" * 40, "h", ""]
    assert list(windows(texts)) == [["a", "b", "c"], ["d", "e" * 9], ["f" * 2], ["g" * 40], ["h", ""]]
    assert list(windows([])) == []


def test_windows_are_lazy():
    def endless():
        while True:
            yield "a"

    assert len(next(windows(endless()))) == 4096


def test_what_is_no_text_is_named():
    with pytest.raises(TypeError, match="text 1: expected str, got bytes"):
        list(windows(["a", b"b"]))


def test_batches_hold_everything_once_and_the_longest_first():
    lengths = [3, 9, 1, 9, 4]
    assert list(length_sorted_batches(lengths, 2)) == [[1, 3], [4, 0], [2]]
    assert list(cell_batches(lengths, 12)) == [[1], [3], [4, 0, 2]]
    assert list(cell_batches(lengths, 1)) == [[1], [3], [4], [0], [2]]


def test_padded_fields():
    rows = [Tokens(np.array([5, 6, 7]), np.array([0, 1, 1])), Tokens(np.array([8]), np.array([1]))]
    batch = padded(rows, 2, torch.device("cpu"))
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 2, 2]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "token_type_ids": [[0, 1, 1], [1, 0, 0]],
    }
    assert all(value.dtype == torch.int64 for value in batch.values())
    bare = padded([Tokens(np.array([1]), None)], 0, torch.device("cpu"))
    assert set(bare) == {"input_ids", "attention_mask"}
