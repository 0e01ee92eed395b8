"""Which texts run together: a stream of texts is cut into windows, and the texts of a window into batches of like length.

Where a window ends depends on the texts alone, never on the batch size, the machine or how many processes share the
work: the same window gives the same batches, and those the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from minitrans.pipelines.base import longest_first

Text = str | tuple[str, str]
MAX_TEXTS = 4096  # of a window
MAX_CHARACTERS = 4_000_000  # so that a window of long texts is small too
# Cells (rows times the longest row) of a batch that is chosen by its size in tokens. On two CPU cores a MiniLM is as fast
# with 1024 as with 4096; a GPU wants more work at a time.
CELLS = {"cpu": 2048, "cuda": 32768, "mps": 8192}


class WindowRule:
    """Tells, text by text, whether it begins a new window."""

    def __init__(self) -> None:
        """No text yet."""
        self._texts = 0
        self._characters = 0

    def begins(self, characters: int) -> bool:
        """Takes the next text, by its number of characters; True if it is the first of a window (the very first is)."""
        full = self._texts == MAX_TEXTS or self._characters + characters > MAX_CHARACTERS
        if full or self._texts == 0:
            self._texts, self._characters = 1, characters
            return True
        self._texts += 1
        self._characters += characters
        return False


def as_text(number: int, given: object) -> Text:
    """A text, or a pair of texts, from what a list may hold. Raises TypeError, saying which it is, for anything else."""
    if isinstance(given, Mapping) and list(given) == ["text"]:
        given = given["text"]
    if isinstance(given, str):
        return given
    if isinstance(given, tuple | list) and len(given) == 2 and all(isinstance(part, str) for part in given):
        return given[0], given[1]
    raise TypeError(
        f"text {number}: expected str, got {type(given).__name__} (a pair of str or {{'text': str}} is taken too)"
    )


def windows(texts: Iterable[object]) -> Iterator[list[Text]]:
    """The texts, in windows. Raises TypeError, saying which text it is, for one that is none."""
    rule = WindowRule()
    window: list[Text] = []
    for number, given in enumerate(texts):
        text = as_text(number, given)
        if rule.begins(len(text) if isinstance(text, str) else sum(map(len, text))) and window:
            yield window
            window = []
        window.append(text)
    if window:
        yield window


def cell_batches(lengths: Sequence[int], cells: int) -> Iterator[list[int]]:
    """The indices of the longest items, as many to a batch as fit into `cells` when padded, at least one; then of the next."""
    order = longest_first(lengths)
    start = 0
    while start < len(order):
        count = max(1, cells // max(1, lengths[order[start]]))
        yield order[start : start + count]
        start += count
