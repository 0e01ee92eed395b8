"""The words that `Encoder.encode` takes: ours, and those of sentence-transformers where they mean the same or more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch

from minitrans.embedding.similarity import QUANTISED
from minitrans.errors import NotSupportedError, nearest
from minitrans.files import printable

Progress = Callable[[int], None]


class Options(TypedDict, total=False):
    """What every way to encode takes; `Encoder.encode` explains it."""

    pooling: str | None
    normalize: bool | None
    normalize_embeddings: bool
    batch_size: int | str
    prompt: str | None
    prompt_name: str | None
    truncate_dim: int | None


class Words(Options, total=False):
    """What `Encoder.encode` takes besides."""

    sentences: Any
    inputs: Any
    show_progress: bool | Progress | None
    show_progress_bar: bool | None
    output_value: str | None
    precision: str | None
    convert_to_numpy: bool | None
    convert_to_tensor: bool | None
    device: torch.device | str | int | None


@dataclass(frozen=True)
class Call:
    """The options of one call, resolved.

    Attributes:
        pooling: names out of `POOLINGS`.
        normalize: whether vectors get length 1; None = as the folder says.
        batch_size: texts that run together, or "auto".
        prompt: what goes before every text.
        truncate_dim: how many numbers of each vector are kept; None = all.
        skipped: how many tokens at the beginning of each text take no part in the pooling.
    """

    pooling: tuple[str, ...]
    normalize: bool | None
    batch_size: int | str
    prompt: str
    truncate_dim: int | None
    skipped: int = 0


ALIASES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "normalize_embeddings": ("normalize", lambda wanted: wanted or None),  # False leaves what the folder says
    "show_progress_bar": ("show_progress", bool),
    "sentences": ("texts", lambda texts: texts),
    "inputs": ("texts", lambda texts: texts),
}
_MANY = "expected one process; `torchrun --nproc-per-node N -m minitrans embed` shares a file among several"
# what sentence-transformers takes and this does not -> what to do
REFUSED = {
    "pool": _MANY,
    "chunk_size": _MANY,
    "task": "expected no Router in the folder; encode_query and encode_document choose the prompt",
    "processing_kwargs": "set encoder.max_seq_length, or call encoder.tokenizer",
}


def _one_of(names: Sequence[str | None]) -> tuple[Callable[[Any], bool], str]:
    return lambda value: any(value == name for name in names), "one of " + ", ".join(map(repr, names))


_is_count: Callable[[Any], bool] = lambda value: type(value) is int and value > 0  # noqa: E731
# word -> what holds of its value, and how to say that
CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "batch_size": (lambda value: value == "auto" or _is_count(value), "'auto' or a number above 0"),
    "truncate_dim": (lambda value: value is None or _is_count(value), "None or a number above 0"),
    "device": (lambda value: not isinstance(value, list | tuple), f"one device. {_MANY}"),
    "output_value": _one_of(["sentence_embedding", "token_embeddings", None]),
    "precision": (
        lambda value: value is None or value in QUANTISED,
        f"one of {', '.join(map(repr, QUANTISED))} for the numbers of the vectors "
        "(what the model computes in is the precision of Encoder(...))",
    ),
}


def resolved(given: Mapping[str, Any], known: type, caller: str) -> dict[str, Any]:
    """The words by our names, their values looked at.

    Args:
        given: the keywords of a call.
        known: the TypedDict of those that it takes.
        caller: its name.

    Raises:
        TypeError: for a word that it does not take, naming the nearest it does, and for two words of one meaning.
        ValueError: for a wrong value.
        NotSupportedError: for a word of sentence-transformers that is not offered, saying what to do.
    """
    words: dict[str, Any] = {}
    for word, value in given.items():
        if word in REFUSED and value is not None:
            raise NotSupportedError(f"{word}: {REFUSED[word]}")
        if word not in known.__annotations__ and word not in REFUSED:
            near = nearest(word, known.__annotations__)
            raise TypeError(f"{caller}() takes no word {printable(word)!r}; the nearest it takes is {near}")
        right, expected = CHECKS.get(word, (lambda value: True, ""))
        if not right(value):
            raise ValueError(f"{word}: expected {expected}, got {printable(repr(value))}")
        ours, meaning = ALIASES.get(word, (word, lambda value: value))
        if ours in words:
            raise TypeError(f"{caller}() takes one of {ours!r} and its other name {word!r}, got both")
        words[ours] = meaning(value)
    return {word: value for word, value in words.items() if word not in REFUSED}
