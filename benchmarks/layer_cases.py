"""The memory-bound layers of an encoder as cases: inputs, our call, the same in plain torch, and the bytes that must move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import minitrans_kernels as kernels
import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-12
DROPOUT = 0.1
TOKENS, WIDTHS = 16384, (768, 1024)
VOCABULARY, POSITIONS, TYPES = 30522, 512, 2
LABELLED = 0.15
LENGTH = 128  # of the sequences
IGNORED = -100

Leaves = dict[str, Tensor]


@dataclass(frozen=True)
class Sizes:
    """N tokens of width D, V rows of the token table, batches of length S."""

    tokens: int
    width: int
    vocabulary: int
    length: int
    dtype: torch.dtype


@dataclass
class Problem:
    """A layer with its inputs.

    Attributes:
        leaves: what gets gradients.
        grad_out: the gradient of the output.
        ours: the kernel; with dropout the elements of `dropout_mask` for seed and shape of the output are dropped.
        torch: the same in plain torch. Both take leaves and the dropout probability.
        exact: the same with a given mask, from leaves, dropout probability and mask; None where there is no dropout.
        least_bytes: by mode.
        flops: by mode; empty where they do not matter.
        others: further ways in torch, by name.
        seed: of the dropout.
    """

    leaves: Leaves
    grad_out: Tensor
    ours: Callable[[Leaves, float], Tensor]
    torch: Callable[[Leaves, float], Tensor]
    least_bytes: dict[str, float]
    exact: Callable[[Leaves, float, Tensor], Tensor] | None = None
    flops: dict[str, float] = field(default_factory=dict)
    others: dict[str, Callable[[Leaves, float], Tensor]] = field(default_factory=dict)
    seed: Tensor | None = None


class Maker:
    """Random tensors, the same each time."""

    def __init__(self, sizes: Sizes, dropout_p: float, device: torch.device) -> None:
        self.sizes, self.dropout_p, self.device = sizes, dropout_p, device
        self.generator = torch.Generator(device).manual_seed(0)

    def normal(self, *shape: int, factor: float = 1.0, offset: float = 0.0) -> Tensor:
        values = torch.randn(shape, generator=self.generator, device=self.device)
        return (values * factor + offset).to(self.sizes.dtype)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator, device=self.device)

    def leaves(self, **tensors: Tensor) -> Leaves:
        return {name: tensor.requires_grad_() for name, tensor in tensors.items()}

    def seed(self) -> Tensor:
        return torch.tensor([17], device=self.device)


def add_dropout_layer_norm(make: Maker) -> Problem:
    tokens, width = make.sizes.tokens, make.sizes.width
    leaves = make.leaves(
        x=make.normal(tokens, width), residual=make.normal(tokens, width),
        weight=make.normal(width, factor=0.1, offset=1.0), bias=make.normal(width, factor=0.1),
    )  # fmt: skip
    seed, drops = make.seed(), make.dropout_p > 0

    def normed(given: Leaves, x: Tensor) -> Tensor:
        return F.layer_norm(x + given["residual"], (width,), given["weight"], given["bias"], EPS)

    def ours(given: Leaves, p: float) -> Tensor:
        return kernels.add_dropout_layer_norm(*given.values(), eps=EPS, dropout_p=p, dropout_seed=seed if p else None)

    return Problem(
        leaves,
        make.normal(tokens, width),
        ours,
        lambda given, p: normed(given, F.dropout(given["x"], p)),
        # x and residual in, the result out, for a gradient the sum too; backward that sum and a gradient in, and without
        # dropout one gradient out that serves both
        _moved(make, tokens * width, forward=3, backward=3 + drops, both=7 + drops),
        exact=lambda given, p, kept: normed(given, given["x"] * kept / (1 - p)),
        seed=seed,
    )


def rms_norm(make: Maker) -> Problem:
    tokens, width = make.sizes.tokens, make.sizes.width
    leaves = make.leaves(x=make.normal(tokens, width), weight=make.normal(width, factor=0.1, offset=1.0))
    return Problem(
        leaves,
        make.normal(tokens, width),
        lambda given, p: kernels.rms_norm(given["x"], given["weight"], eps=1e-6),
        lambda given, p: F.rms_norm(given["x"], (width,), given["weight"], 1e-6),
        _moved(make, tokens * width, forward=2, backward=3, both=5),
    )


def bias_gelu(make: Maker) -> Problem:
    tokens, width = make.sizes.tokens, 4 * make.sizes.width
    leaves = make.leaves(x=make.normal(tokens, width), bias=make.normal(width))
    return Problem(
        leaves,
        make.normal(tokens, width),
        lambda given, p: kernels.bias_gelu(given["x"], given["bias"]),
        lambda given, p: F.gelu(given["x"] + given["bias"]),
        _moved(make, tokens * width, forward=2, backward=3, both=5),
    )


def embedding_layer_norm(make: Maker) -> Problem:
    sizes = make.sizes
    tokens, width = sizes.tokens, sizes.width
    leaves = make.leaves(
        word=make.normal(sizes.vocabulary, width), position=make.normal(POSITIONS, width), types=make.normal(TYPES, width),
        weight=make.normal(width, factor=0.1, offset=1.0), bias=make.normal(width, factor=0.1),
    )  # fmt: skip
    ids, types = make.integers(sizes.vocabulary, tokens), make.integers(TYPES, tokens)
    places = torch.arange(tokens, device=make.device) % min(sizes.length, POSITIONS)
    seed = make.seed()

    def ours(given: Leaves, p: float) -> Tensor:
        return kernels.embedding_layer_norm(
            ids, places, types, *given.values(), eps=EPS, dropout_p=p, dropout_seed=seed if p else None
        )

    def normed(given: Leaves) -> Tensor:
        total = F.embedding(ids, given["word"]) + F.embedding(types, given["types"])
        return F.layer_norm(
            total + F.embedding(places, given["position"]), (width,), given["weight"], given["bias"], EPS
        )

    table = sizes.vocabulary / tokens  # the gradient of the token table is written whole
    return Problem(
        leaves,
        make.normal(tokens, width),
        ours,
        lambda given, p: F.dropout(normed(given), p),
        _moved(make, tokens * width, forward=2, backward=2 + table, both=4 + table),
        exact=lambda given, p, kept: normed(given) * kept / (1 - p),
        seed=seed,
    )


def masked_lm_loss(make: Maker) -> Problem:
    sizes = make.sizes
    tokens, width, vocabulary = sizes.tokens, sizes.width, sizes.vocabulary
    leaves = make.leaves(
        hidden=make.normal(tokens, width), weight=make.normal(vocabulary, width, factor=width**-0.5),
        bias=make.normal(vocabulary),
    )  # fmt: skip
    labels = make.integers(vocabulary, tokens)
    labels[torch.rand(tokens, generator=make.generator, device=make.device) >= LABELLED] = IGNORED
    labels[0] = 1
    asked = (labels != IGNORED).nonzero()[:, 0]  # known beforehand: plain torch is spared the waiting
    wanted = labels[asked]

    def gathered(given: Leaves, p: float) -> Tensor:
        logits = F.linear(given["hidden"][asked], given["weight"], given["bias"])
        return F.cross_entropy(logits.to(_wider(logits.dtype)), wanted)

    def everywhere(given: Leaves, p: float) -> Tensor:
        logits = F.linear(given["hidden"], given["weight"], given["bias"])
        return F.cross_entropy(logits.to(_wider(logits.dtype)), labels, ignore_index=IGNORED)

    product = 2.0 * len(asked) * width * vocabulary
    parts = len(asked) * width / (tokens * width), vocabulary / tokens  # of hidden, and of the table
    grad = torch.ones((), device=make.device, dtype=_wider(sizes.dtype))
    return Problem(
        leaves,
        grad,
        lambda given, p: kernels.masked_lm_loss(given["hidden"], labels, given["weight"], given["bias"]),
        gathered,
        _moved(
            make, tokens * width, forward=sum(parts), backward=sum(parts) + 1 + parts[1],
            both=2 * sum(parts) + 1 + parts[1],
        ),
        flops={"forward": product, "backward": 2 * product, "both": 3 * product},
        others={"torch, all tokens": everywhere},
    )  # fmt: skip


def _moved(make: Maker, elements: int, **tensors: float) -> dict[str, float]:
    return {mode: count * elements * make.sizes.dtype.itemsize for mode, count in tensors.items()}


def _wider(dtype: torch.dtype) -> torch.dtype:
    """What losses are computed in."""
    return torch.promote_types(dtype, torch.float32)


# name -> (problem, dropout probability)
LAYERS: dict[str, tuple[Callable[[Maker], Problem], float]] = {
    "add_dropout_layer_norm": (add_dropout_layer_norm, DROPOUT),
    "bias_gelu": (bias_gelu, 0.0),
    "masked_lm_loss": (masked_lm_loss, 0.0),
    "embedding_layer_norm": (embedding_layer_norm, DROPOUT),
    "add_layer_norm": (add_dropout_layer_norm, 0.0),
    "rms_norm": (rms_norm, 0.0),
}


def sizes_of(*, small: bool) -> list[Sizes]:
    """The most important first."""
    if small:
        return [Sizes(48, 32, 61, 12, torch.float32)]
    return [Sizes(TOKENS, width, VOCABULARY, LENGTH, torch.bfloat16) for width in WIDTHS]
