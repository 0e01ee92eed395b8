"""Where windows end and what batches hold."""

from __future__ import annotations

import pytest

from minitrans.embedding.batching import cell_batches, windows
from minitrans.pipelines.base import length_sorted_batches

LIMITS = "minitrans.embedding.batching."


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
