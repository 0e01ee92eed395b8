"""Blocks, full sentences and pairs of sentences: nothing lost, nothing too long, and the shares of the papers."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from minitrans.training.data.packing import blocks, full_sentences
from minitrans.training.data.sentence_pairs import next_sentence_pairs, sentence_order_pairs
from minitrans.training.data.source import Document, Sentence

FIRST, LAST, LENGTH = 1, 2, 24


def made_up(number: int = 40, seed: int = 0) -> list[Document]:
    """Tokens count upwards from 10 through all documents, so that each says where it is from."""
    rng, token, documents = random.Random(seed), 10, []
    for _ in range(number):
        document = []
        for _ in range(rng.randint(1, 12)):
            length = rng.randint(1, 14)
            document.append(Sentence(list(range(token, token + length)), [1] * length))
            token += length
        documents.append(document)
    return documents


DOCUMENTS = made_up()
WHERE = {token: number for number, document in enumerate(DOCUMENTS) for sentence in document for token in sentence.ids}


def test_blocks_hold_the_stream():
    source = blocks([[5, 6, 7], [8], [9, 10]], 4, separator=2)
    assert [each["input_ids"] for each in source.examples] == [[5, 6, 7, 2], [8, 2, 9, 10], [2]]
    with pytest.raises(ValueError, match="at least 2 tokens"):
        blocks([[5]], 1)
    with pytest.raises(ValueError, match="expected at least one example"):
        blocks([], 4)


@pytest.mark.parametrize("across", [True, False])
def test_full_sentences_lose_nothing(across: bool):
    source = full_sentences(DOCUMENTS, LENGTH, first=FIRST, last=LAST, across=across)
    rows = [example["input_ids"] for example in source.examples]
    assert all(row[0] == FIRST and row[-1] == LAST and len(row) <= LENGTH for row in rows)
    assert [token for row in rows for token in row if token > 9] == sorted(WHERE)
    ends = {sentence.ids[-1] for document in DOCUMENTS for sentence in document}
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        assert row[-2] in ends  # whole sentences
        inner = row[1:-1]
        for place, token in enumerate(inner):
            if token == LAST:  # a separator is between two documents and nowhere else
                assert across
                assert WHERE[inner[place - 1]] != WHERE[inner[place + 1]]
        assert all(WHERE[a] == WHERE[b] for a, b in pairwise(inner) if LAST not in (a, b))
        if after and WHERE[row[-2]] == WHERE[after[1]]:  # it is full: the next sentence would not go in
            number = WHERE[after[1]]
            following = next(each for each in DOCUMENTS[number] if each.ids[0] == after[1])
            assert len(row) + len(following.ids) > LENGTH
    assert all(len(each["word_starts"]) == len(each["input_ids"]) for each in source.examples)


def test_a_sentence_that_is_too_long_is_cut():
    source = full_sentences([[Sentence(list(range(10, 30)), [1, 0] * 10)]], 10, first=FIRST, last=LAST)
    assert [each["input_ids"][1:-1] for each in source.examples] == [
        [*range(10, 18)],
        [*range(18, 26)],
        [*range(26, 30)],
    ]
    with pytest.raises(ValueError, match="must fit, got length=2"):
        full_sentences(DOCUMENTS, 2, first=FIRST, last=LAST)


def sides(example: dict) -> tuple[list[int], list[int]]:
    ids = example["input_ids"]
    middle = ids.index(LAST)
    assert (ids[0], ids[-1]) == (FIRST, LAST)
    assert example["token_type_ids"] == [0] * (middle + 1) + [1] * (len(ids) - middle - 1)
    assert len(example["word_starts"]) == len(ids) <= LENGTH
    return ids[1:middle], ids[middle + 1 : -1]


def test_half_of_the_second_texts_follow():
    source = next_sentence_pairs(DOCUMENTS, LENGTH, first=FIRST, last=LAST, seed=1, rounds=10)
    labels = []
    for example in source.examples:
        one, other = sides(example)
        assert min(len(one), len(other)) > 0
        assert all(b - a == 1 for text in (one, other) for a, b in pairwise(text))
        random_text = WHERE[one[0]] != WHERE[other[0]]
        assert example["next_sentence_label"] == int(random_text)
        assert random_text or other[0] > one[-1]
        labels.append(example["next_sentence_label"])
    # a stretch of one sentence always gets a random text, as in the paper's code: a little more than half
    assert 0.5 - 3 * 0.5 / len(labels) ** 0.5 < sum(labels) / len(labels) < 0.65
    full = [len(example["input_ids"]) == LENGTH for example in source.examples]
    assert sum(full) / len(full) > 0.5


def test_half_of_the_pairs_are_swapped():
    source = sentence_order_pairs(DOCUMENTS, LENGTH, first=FIRST, last=LAST, seed=1, rounds=10)
    labels = []
    for example in source.examples:
        one, other = sides(example)
        assert WHERE[one[0]] == WHERE[other[0]]
        assert example["sentence_order_label"] == int(other[0] < one[0])
        labels.append(example["sentence_order_label"])
    assert abs(sum(labels) / len(labels) - 0.5) < 3 * 0.5 / len(labels) ** 0.5


def test_pairs_follow_from_the_seed_and_need_two_documents():
    again = [
        next_sentence_pairs(DOCUMENTS, LENGTH, first=FIRST, last=LAST, seed=seed).fingerprint for seed in (1, 1, 2)
    ]
    assert again[0] == again[1] != again[2]
    with pytest.raises(ValueError, match="needs another document, found 1"):
        next_sentence_pairs(DOCUMENTS[:1], LENGTH, first=FIRST, last=LAST)
    with pytest.raises(ValueError, match="must fit, got length=4"):
        sentence_order_pairs(DOCUMENTS, 4, first=FIRST, last=LAST)
