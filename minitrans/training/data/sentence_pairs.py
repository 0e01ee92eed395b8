"""Pairs of texts for pre-training: does the second follow the first (Devlin et al. 2019, section 3.1 and appendix A.2), or
have the two been swapped (Lan et al. 2020, section 3.1)?
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from minitrans.training.data.packing import cut_long
from minitrans.training.data.source import Document, Example, Examples, Sentence


class Pair(NamedTuple):
    """Two texts, each of some sentences; `label` 0 = the second follows the first."""

    first: Document
    second: Document
    label: int


# From the documents, the number of one, a stretch of its sentences, where the stretch was cut, and how many tokens there are
# for the second text: the pair, and how many sentences of the stretch were used
Draw = Callable[[Sequence[Document], int, Document, int, int, random.Random], tuple[Pair, int]]


def next_sentence_pairs(
    documents: Sequence[Document], length: int, *, first: int, last: int, seed: int = 0, rounds: int = 1,
    short: float = 0.1, name: str = "pairs",
) -> Examples:  # fmt: skip
    """first A last B last, with `next_sentence_label`: in half of the pairs B is from another document, and the label 1.

    A and B fill the length together, except in a share of short pairs; each is a stretch of sentences. What B would have been
    begins the next pair, where B is from elsewhere.

    Args:
        documents: at least two.
        length: T, at most: the longer text is cut, token by token, at a random end.
        first: id of the token at the start.
        last: of that behind each text.
        seed: of all draws.
        rounds: how often the documents are gone through, with other draws (10 in the paper's code).
        short: the share of pairs that aim at a random length.
        name: of the data, for messages.

    Raises:
        ValueError: for fewer than two documents, or a length without room for two tokens.
    """
    if len(documents) < 2:
        raise ValueError(f"{name}: a random second text needs another document, found {len(documents)} documents")
    examples = _pairs(documents, length, (first, last), seed, rounds, short, _follows, "next_sentence_label")
    return Examples(examples, name=name)


def sentence_order_pairs(
    documents: Sequence[Document], length: int, *, first: int, last: int, seed: int = 0, rounds: int = 1,
    short: float = 0.1, name: str = "pairs",
) -> Examples:  # fmt: skip
    """The same with `sentence_order_label`: B always follows A in its document, but half of the pairs are swapped (label 1).

    Arguments and errors are those of `next_sentence_pairs`; one document will do, and a document of one sentence gives nothing.
    """
    examples = _pairs(documents, length, (first, last), seed, rounds, short, _swapped, "sentence_order_label")
    return Examples(examples, name=name)


def _pairs(
    documents: Sequence[Document], length: int, special: tuple[int, int], seed: int, rounds: int, short: float,
    draw: Draw, field: str,
) -> list[Example]:  # fmt: skip
    room = length - 3
    if room < 2:
        raise ValueError(f"three special tokens and two texts must fit, got length={length}")
    rng = random.Random(seed)
    documents = [cut_long(document, room) for document in documents]
    examples = []
    for _ in range(rounds):
        for number, document in enumerate(documents):
            for pair in _of_document(documents, number, document, room, short, draw, rng):
                examples.append(_example(pair, room, special, field, rng))
    return examples


def _of_document(
    documents: Sequence[Document],
    number: int,
    document: Document,
    room: int,
    short: float,
    draw: Draw,
    rng: random.Random,
) -> list[Pair]:
    """The document's sentences gone through once; stretches end where they have the tokens that are aimed at."""
    pairs, start = [], 0
    while start < len(document):
        aim = rng.randint(2, room) if rng.random() < short else room
        end = total = 0
        for end in range(start + 1, len(document) + 1):
            total += len(document[end - 1].ids)
            if total >= aim:
                break
        stretch = document[start:end]
        cut = rng.randint(1, len(stretch) - 1) if len(stretch) > 1 else 1
        left = aim - sum(len(sentence.ids) for sentence in stretch[:cut])
        pair, used = draw(documents, number, stretch, cut, left, rng)
        if pair.second:
            pairs.append(pair)
        start += used
    return pairs


def _follows(
    documents: Sequence[Document], number: int, stretch: Document, cut: int, left: int, rng: random.Random
) -> tuple[Pair, int]:
    """B as it stands, or with probability 1/2, and where there is none, sentences of another document."""
    if len(stretch) > 1 and rng.random() < 0.5:
        return Pair(stretch[:cut], stretch[cut:], 0), len(stretch)
    other = rng.randrange(len(documents) - 1)
    other += other >= number
    second: Document = []
    for sentence in documents[other][rng.randrange(len(documents[other])) :]:
        second.append(sentence)
        left -= len(sentence.ids)
        if left <= 0:
            break
    return Pair(stretch[:cut], second, 1), cut


def _swapped(
    documents: Sequence[Document], number: int, stretch: Document, cut: int, left: int, rng: random.Random
) -> tuple[Pair, int]:
    swap = rng.random() < 0.5
    first, second = (stretch[cut:], stretch[:cut]) if swap else (stretch[:cut], stretch[cut:])
    whole = bool(first) and bool(second)
    return Pair(first, second if whole else [], int(swap)), len(stretch)


def _example(pair: Pair, room: int, special: tuple[int, int], field: str, rng: random.Random) -> Example:
    one, other = _joined(pair.first), _joined(pair.second)
    while len(one.ids) + len(other.ids) > room:  # Devlin et al.: at random from the front or the back, against a bias
        longer = one if len(one.ids) > len(other.ids) else other
        place = 0 if rng.random() < 0.5 else -1
        del longer.ids[place], longer.starts[place]
    for text in (one, other):
        text.starts[0] = 1
    first, last = special
    return {
        "input_ids": [first, *one.ids, last, *other.ids, last],
        "token_type_ids": [0] * (len(one.ids) + 2) + [1] * (len(other.ids) + 1),
        "word_starts": [1, *one.starts, 1, *other.starts, 1],
        field: pair.label,
    }


def _joined(sentences: Document) -> Sentence:
    ids = [token for sentence in sentences for token in sentence.ids]
    return Sentence(ids, [start for sentence in sentences for start in sentence.starts])
