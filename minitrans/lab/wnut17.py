"""WNUT-17, emerging entities (Derczynski et al. 2017): F1 of whole entities, tagged word by word by a linear probe."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minitrans.lab.bench import Bench
from minitrans.lab.capture import states_of
from minitrans.lab.probe import Probed, probed
from minitrans.lab.specs import Subject
from minitrans.pipelines.base import padded
from minitrans.training.data.conll import read_conll
from minitrans.training.data.encoding import class_of

TRAIN, TEST = "wnut17train.conll", "emerging.test.annotated"
KINDS = ("corporation", "creative-work", "group", "location", "person", "product")
TAGS = ("O", *(f"{place}-{kind}" for kind in KINDS for place in "BI"))
BATCH = 32

Sentence = tuple[list[str], list[str]]  # words, tags
Entity = tuple[int, int, str]  # first word, word after the last, kind


def wnut17(bench: Bench, subject: Subject, seed: int, *, train: int = 1000) -> dict[str, Any]:
    """On the test set, the probe fitted to the first `train` sentences; the vector of a word is that of its first token."""
    return probed(bench, subject, seed, _task(train))


def read_tagged(path: Path) -> list[Sentence]:
    """Sentences of a file of words and tags. Raises ValueError, naming the line that is something else."""
    sentences = read_conll(path)
    sentences.map(lambda row: [class_of(tag, TAGS) for tag in row["tags"]])  # refuses others
    return [(row["words"], row["tags"]) for row in sentences]


def entities(tags: Sequence[str]) -> set[Entity]:
    """An entity begins with B, or with I after another kind or none; it goes on as long as I of its kind follows."""
    found: set[Entity] = set()
    start, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        if kind and tag != f"I-{kind}":
            found.add((start, place, kind))
            kind = ""
        if tag != "O" and not kind:
            start, kind = place, tag[2:]
    return found


def f1(found: Sequence[set[Entity]], gold: Sequence[set[Entity]]) -> float:
    """Of 100: entities count where first word, last word and kind are right."""
    right = sum(len(one & other) for one, other in zip(found, gold, strict=True))
    total = sum(map(len, found)) + sum(map(len, gold))
    return 200 * right / total if total else 0.0


@lru_cache
def _task(number: int) -> Probed:
    return Probed("wnut17", number, _read, _vectors, _score, len(TAGS))


def _read(bench: Bench, number: int) -> tuple[tuple[list[Sentence], Tensor], tuple[list[Sentence], Tensor]]:
    train, test = read_tagged(bench.files[TRAIN])[:number], read_tagged(bench.files[TEST])
    return (train, _labels(train)), (test, _labels(test))


def _labels(sentences: Sequence[Sentence]) -> Tensor:
    return torch.tensor([TAGS.index(tag) for _, tags in sentences for tag in tags])


@torch.no_grad()
def _vectors(bench: Bench, sentences: Sequence[Sentence]) -> Tensor:
    """(words, D); a word that was cut off is 0."""
    encoder, places = bench.encoder, sorted(range(len(sentences)), key=lambda place: len(sentences[place][0]))
    found: dict[int, Tensor] = {}
    for start in range(0, len(places), BATCH):  # those of a batch are about as long
        chosen = places[start : start + BATCH]
        words = [sentences[place][0] for place in chosen]
        encoded = encoder.tokenizer(words, is_split_into_words=True, truncation=True, max_length=encoder.max_length)
        rows = [{"input_ids": ids} for ids in encoded["input_ids"]]
        states = states_of(bench, padded(rows, encoder.tokenizer.pad_token_id or 0, encoder.device)).cpu()  # (B, T, D)
        for row, (place, sentence) in enumerate(zip(chosen, words, strict=True)):
            found[place] = states.new_zeros(len(sentence), states.shape[-1])
            first = {
                word: token for token, word in reversed(list(enumerate(encoded.word_ids(row)))) if word is not None
            }
            found[place][list(first)] = states[row, list(first.values())]
    return torch.cat([found[place] for place in range(len(sentences))])


def _score(found: Sequence[int], sentences: Sequence[Sentence], _: Tensor) -> float:
    sizes = [len(words) for words, _ in sentences]
    tags = [[TAGS[tag] for tag in part] for part in torch.split(torch.tensor(found), sizes)]
    return f1([entities(each) for each in tags], [entities(each) for _, each in sentences])
