"""Inputs for pre-training that are filled up: a stream of tokens cut in blocks, and whole sentences laid end to end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from minitrans.training.data.source import Document, Example, Examples, Sentence


def blocks(texts: Iterable[Sequence[int]], length: int, separator: int | None = None, name: str = "blocks") -> Examples:
    """All texts one after another, cut every `length` tokens (Radford et al. 2019); the last block may be shorter.

    Args:
        texts: ids of each.
        length: T.
        separator: put behind every text; None = nothing.
        name: of the data, for messages.

    Raises:
        ValueError: for a length below 2, or no tokens.
    """
    if length < 2:
        raise ValueError(f"a block needs at least 2 tokens, got length={length}")
    end = [] if separator is None else [separator]
    stream = list(chain.from_iterable((*text, *end) for text in texts))
    cut = (stream[start : start + length] for start in range(0, len(stream), length))
    return Examples([{"input_ids": block} for block in cut], name=name)


def full_sentences(
    documents: Iterable[Document], length: int, *, first: int, last: int, across: bool = True, name: str = "sentences"
) -> Examples:
    """first, as many sentences as there is room for, last (Liu et al. 2019, section 4.2).

    Args:
        documents: sentences of each.
        length: T, at most; a sentence that is longer is cut.
        first: id of the token at the start.
        last: of that at the end, which also stands between two documents.
        across: whether an input goes on with the next document ("FULL-SENTENCES"); else it ends ("DOC-SENTENCES").
        name: of the data, for messages.

    Raises:
        ValueError: for a length without room for a token, or no sentences.
    """
    room = length - 2
    if room < 1:
        raise ValueError(f"two special tokens and a sentence must fit, got length={length}")
    examples: list[Example] = []
    ids: list[int] = []
    starts: list[int] = []

    def finish() -> None:
        while ids and ids[-1] == last:  # nothing came behind a separator
            ids.pop()
            starts.pop()
        if ids:
            examples.append({"input_ids": [first, *ids, last], "word_starts": [1, *starts, 1]})
        ids.clear()
        starts.clear()

    for document in documents:
        if not across:
            finish()
        elif ids:
            ids.append(last)
            starts.append(1)
        for sentence in cut_long(document, room):
            if len(ids) + len(sentence.ids) > room:
                finish()
            ids.extend(sentence.ids)
            starts.extend(sentence.starts)
    finish()
    return Examples(examples, name=name)


def cut_long(document: Document, room: int) -> Document:
    """Sentences of at most so many tokens; the first token of a piece counts as the start of a word."""
    return [
        Sentence(sentence.ids[start : start + room], [1, *sentence.starts[start + 1 : start + room]])
        for sentence in document
        for start in range(0, len(sentence.ids), room)
    ]
