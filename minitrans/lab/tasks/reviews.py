"""Whether a film review praises, byte by byte (Pang & Lee 2004, 2,000 reviews): what the Long Range Arena's text task asks.

`movie_reviews.zip` as NLTK gives it out. Its tenth tenth, the files cv900 to cv999 of both kinds, is held out.
"""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path, PurePosixPath

import torch

from minitrans.lab.tasks.task import Examples, Task

KINDS = ("neg", "pos")
HELD_OUT = "cv9"
PADDING, VOCABULARY = 0, 257  # byte b is id b + 1


def reviews(file: Path, *, length: int = 1024) -> Task:
    """Two classes; of a longer review its first bytes."""
    train: list[tuple[bytes, int]] = []
    held_out: list[tuple[bytes, int]] = []
    with zipfile.ZipFile(file) as archive:
        for name in sorted(archive.namelist()):
            path = PurePosixPath(name)
            if path.suffix == ".txt" and path.parent.name in KINDS:
                part = held_out if path.name.startswith(HELD_OUT) else train
                part.append((archive.read(name), KINDS.index(path.parent.name)))
    if not train or not held_out:
        raise ValueError(
            f"{file}: expected reviews, neg/cv*.txt and pos/cv*.txt, found {len(train)} and {len(held_out)}"
        )
    return Task(
        "reviews", VOCABULARY, len(KINDS), False, False, length, partial(_draw, train), partial(_draw, held_out)
    )


def _draw(texts: list[tuple[bytes, int]], count: int, length: int, generator: torch.Generator) -> Examples:
    """Different ones, as long as there are some that were not drawn yet."""
    order = torch.cat([torch.randperm(len(texts), generator=generator) for _ in range(-(-count // len(texts)))])[:count]
    chosen = [texts[place] for place in order.tolist()]
    longest = min(length, max(len(text) for text, _ in chosen))
    ids = torch.full((count, longest), PADDING)
    for row, (text, _) in zip(ids, chosen, strict=True):
        part = torch.frombuffer(bytearray(text[:longest]), dtype=torch.uint8)
        row[: len(part)] = part.to(torch.int64) + 1
    return Examples(ids, torch.tensor([label for _, label in chosen]), ids != PADDING)
