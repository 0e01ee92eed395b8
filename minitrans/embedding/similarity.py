"""What vectors are compared by, and kept in, as sentence-transformers names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

Compare = Callable[[Tensor, Tensor], Tensor]
# name -> of all pairs, (M, D) and (N, D) to (M, N); of rows side by side, (N, D) twice to (N). Larger is closer.
SIMILARITIES: dict[str, tuple[Compare, Compare]] = {
    "cosine": (
        lambda a, b: normalize(a, dim=-1) @ normalize(b, dim=-1).T,
        lambda a, b: (normalize(a, dim=-1) * normalize(b, dim=-1)).sum(dim=-1),
    ),
    "dot": (lambda a, b: a @ b.T, lambda a, b: (a * b).sum(dim=-1)),
    "euclidean": (lambda a, b: -torch.cdist(a, b), lambda a, b: -(a - b).square().sum(dim=-1).sqrt()),
    "manhattan": (lambda a, b: -torch.cdist(a, b, p=1.0), lambda a, b: -(a - b).abs().sum(dim=-1)),
}


def as_vectors(given: Any) -> Tensor:
    """(N, D), or (D), of float32 at least, from a tensor, an array, or a list of vectors."""
    if not isinstance(given, Tensor):
        rows = [row.cpu() if isinstance(row, Tensor) else row for row in given]
        given = torch.from_numpy(np.array(rows))
    return given.to(torch.promote_types(given.dtype, torch.float32))  # type: ignore[no-any-return]


def _in_bytes(vectors: Tensor) -> Tensor:
    """(N, D) uint8: where each number is between the least and the greatest of its coordinate."""
    least, greatest = vectors.aminmax(dim=0)
    step = (greatest - least) / 255
    return ((vectors - least) / step.where(step > 0, 1)).floor().clamp(0, 255).to(torch.uint8)


def _in_bits(vectors: Tensor) -> Tensor:
    """(N, D / 8) uint8, rounded up: whether each number is above 0, the first in the highest bit."""
    return torch.from_numpy(np.packbits(vectors.numpy() > 0, axis=-1))


def _signed(numbers: Tensor) -> Tensor:
    return (numbers.to(torch.int16) - 128).to(torch.int8)


# precision of vectors (N, D) on the CPU -> how they come into it
QUANTISED: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": lambda vectors: vectors,
    "int8": lambda vectors: _signed(_in_bytes(vectors)),
    "uint8": _in_bytes,
    "binary": lambda vectors: _signed(_in_bits(vectors)),
    "ubinary": _in_bits,
}


def quantised(vectors: Tensor, precision: str | None) -> Tensor:
    """Vectors (N, D) in this precision; None leaves them.

    Raises:
        ValueError: where a single vector is to say how far its coordinates reach.
    """
    if precision in ("int8", "uint8") and len(vectors) == 1:
        raise ValueError(
            f"precision: {precision!r} takes the reach of each coordinate from the texts, so give two or more"
        )
    given = vectors if len(vectors) else vectors.new_zeros(2, vectors.shape[1])
    return QUANTISED[precision or "float32"](given)[: len(vectors)]
