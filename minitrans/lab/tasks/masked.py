"""Masked bytes of WikiText-2 (Merity et al. 2016): 15 % are hidden behind a mask, always, and asked for (Devlin et al. 2019)."""

from __future__ import annotations

import gzip
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from minitrans.lab.tasks.task import NOT_ASKED, Examples, Task

MASK, SHARE = 256, 0.15


def masked(train: Path, held_out: Path, *, length: int = 256) -> Task:
    """Every byte is a class; texts are windows drawn anywhere in the file."""
    sources = (partial(_draw, _bytes(file)) for file in (train, held_out))
    return Task("masked", MASK + 1, MASK, False, True, length, *sources)


def _bytes(file: Path) -> Tensor:
    return torch.frombuffer(bytearray(gzip.decompress(file.read_bytes())), dtype=torch.uint8)


def _draw(text: Tensor, count: int, length: int, generator: torch.Generator) -> Examples:
    if len(text) <= length:
        raise ValueError(f"a text of {len(text)} bytes holds no window of {length}")
    starts = torch.randint(len(text) - length, (count, 1), generator=generator)
    ids = text[starts + torch.arange(length)].to(torch.int64)  # (B, T)
    hidden = torch.rand(ids.shape, generator=generator) < SHARE
    return Examples(ids.masked_fill(hidden, MASK), ids.masked_fill(~hidden, NOT_ASKED))
