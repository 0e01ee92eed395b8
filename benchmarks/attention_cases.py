"""What the attention benchmark runs: cases as data, their inputs, and how much work is in them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.padding import lengths_of_fill

WINDOW = 64  # to each side
DROPOUT = 0.1
BUCKETS, MAX_DISTANCE = 32, 128  # T5's
TOKENS = 16384
BERT, WIDE = (12, 64), (32, 64)  # (H, K): BERT-base, and H * K = 2048 as in the published tables
WIDE_128 = (16, 128)
LOW_SCORE = -120.0
KINDS = ("dense", "padded", "causal", "window", "bias", "t5", "dropout", "low_scores")


@dataclass(frozen=True)
class Case:
    """One attention problem, T = S.

    Attributes:
        kind: one of `KINDS`; "bias" is learned, (1, H, S, S), "t5" a learned table.
        priority: 1 is measured first; 0 was asked for by its shape.
        fill: share of real tokens of a padded batch.
    """

    kind: str
    batch: int
    heads: int
    length: int
    width: int
    dtype: torch.dtype
    priority: int
    fill: float = 1.0

    @property
    def name(self) -> str:
        """Kind and, where it is padded, fill."""
        return f"{self.kind} {self.fill:g}" if self.kind == "padded" else self.kind

    @property
    def key(self) -> dict[str, str | int]:
        """What names the case in a result."""
        sizes = {"B": self.batch, "H": self.heads, "S": self.length, "K": self.width}
        return {"case": self.name, **sizes, "dtype": str(self.dtype).removeprefix("torch.")}

    @property
    def lengths(self) -> list[int]:
        """Real tokens of each sequence."""
        if self.kind != "padded":
            return [self.length] * self.batch
        return lengths_of_fill(self.fill, self.batch, self.length)

    @property
    def pairs(self) -> float:
        """Query-key pairs of one head in all sequences that are needed; causal counts as half, as is customary."""
        if self.kind == "causal":
            return 0.5 * self.batch * self.length**2
        if self.kind == "window":
            reach = min(WINDOW, self.length - 1)
            return self.batch * (self.length * (2 * reach + 1) - reach * (reach + 1))
        return sum(length**2 for length in self.lengths)

    def flops(self, mode: str) -> float:
        """2 matrix products forward, 5 backward, 2 operations a multiply-add."""
        products = {"forward": 2, "backward": 5, "both": 7}[mode]
        return products * 2 * self.heads * self.width * self.pairs

    def least_bytes(self, mode: str) -> float:
        """Every real token of q, k, v, o moved once forward; of q, k, v, o, do, dq, dk, dv backward."""
        tensors = {"forward": 4, "backward": 8, "both": 12}[mode]
        return tensors * sum(self.lengths) * self.heads * self.width * self.dtype.itemsize


SMALL = Case("dense", 2, 2, 24, 16, torch.float32, 1)


@dataclass
class Inputs:
    """Random tensors of a case; `leaves` are those with gradients, by name."""

    case: Case
    leaves: dict[str, Tensor]  # query, key, value (B, H, S, K); bias (1, H, S, S); table (buckets, H)
    grad_out: Tensor  # (B, H, S, K), zero at padding
    key_padding: Tensor | None  # (B, S) bool, True = a token
    seed: Tensor  # (1) int64
    kept: Tensor | None = None  # (B, H, S, S) bool, what dropout leaves; computed when first needed

    def in_float64(self) -> Inputs:
        """The same numbers, with gradients of their own."""
        leaves = {name: leaf.detach().double().requires_grad_() for name, leaf in self.leaves.items()}
        case = replace(self.case, dtype=torch.float64)
        return replace(self, case=case, leaves=leaves, grad_out=self.grad_out.double())

    @property
    def real(self) -> Tensor:
        """(B, 1, S, 1) bool: the tokens that count."""
        shape = (self.case.batch, self.case.length)
        found = torch.ones(shape, dtype=torch.bool) if self.key_padding is None else self.key_padding
        return found[:, None, :, None].to(self.grad_out.device)


def make(case: Case, device: torch.device) -> Inputs:
    """Normal random inputs, the same each time."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, factor: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator, device=device) * factor).to(case.dtype)

    shape = (case.batch, case.heads, case.length, case.width)
    leaves = {name: normal(*shape) for name in ("query", "key", "value")}
    if case.kind == "bias":
        leaves["bias"] = normal(1, case.heads, case.length, case.length)
    if case.kind == "t5":
        leaves["table"] = normal(BUCKETS, case.heads)
    if (
        case.kind == "low_scores"
    ):  # every score near LOW_SCORE, by one coordinate that is the same in all queries and keys
        for name, value in (("query", 1.0), ("key", LOW_SCORE * case.width**0.5)):
            leaves[name] *= 0.1
            leaves[name][..., 0] = value
    grad_out = normal(*shape)
    key_padding = None
    if case.kind == "padded":
        key_padding = torch.arange(case.length, device=device) < torch.tensor(case.lengths, device=device)[:, None]
        grad_out *= key_padding[:, None, :, None]
    if case.kind == "low_scores":  # the failure needs a mask, even one that masks nothing
        key_padding = torch.ones(case.batch, case.length, dtype=torch.bool, device=device)
    for leaf in leaves.values():
        leaf.requires_grad_()
    return Inputs(case, leaves, grad_out, key_padding, torch.tensor([17], device=device))


def cases(*, small: bool) -> list[Case]:
    """All, the most important first; `small` ones are for trying the code on a CPU."""
    return of_shape(SMALL) if small else sorted(_full(), key=lambda case: case.priority)


def of_shape(base: Case) -> list[Case]:
    """Every kind in the shape and dtype of one case."""
    return [replace(base, kind=kind, fill=0.5 if kind == "padded" else 1.0) for kind in KINDS]


def _full() -> list[Case]:
    found: dict[tuple[object, ...], Case] = {}

    def put(priority: int, kind: str, shape: tuple[int, int], *lengths: int, fill: float = 1.0) -> None:
        for length in lengths:
            key = (kind, fill, *shape, length)
            batch = max(TOKENS // length, 1)
            found.setdefault(key, Case(kind, batch, shape[0], length, shape[1], torch.bfloat16, priority, fill))

    for length in (192, 256):  # 192 % 128 == 64 is where cuDNN fails, 256 is the control
        found["low_scores", length] = Case("low_scores", 8, 12, length, 64, torch.bfloat16, 1)
    put(1, "dense", BERT, 128, 512)
    put(1, "dense", WIDE, 512, 2048)
    put(1, "dense", WIDE_128, 2048)
    put(1, "padded", BERT, 128, 512, fill=0.5)
    put(1, "t5", BERT, 512)
    put(1, "window", WIDE, 2048, 8192)
    put(1, "bias", BERT, 512)
    put(1, "dropout", BERT, 512)
    put(1, "causal", WIDE, 2048)
    for fill in (0.3, 0.8):
        put(2, "padded", BERT, 128, 512, fill=fill)
    put(2, "dense", BERT, 32, 64, 256)
    put(2, "dense", WIDE, 1024, 4096, 8192, 16384)
    put(2, "dense", WIDE_128, 512, 8192)
    put(2, "dropout", BERT, 128)
    put(2, "t5", BERT, 2048)
    put(2, "bias", BERT, 128, 2048)
    put(2, "causal", WIDE_128, 2048)
    put(2, "window", BERT, 512)
    put(3, "padded", BERT, 2048, fill=0.5)
    put(3, "causal", WIDE, 512, 8192, 16384)
    put(3, "causal", WIDE_128, 512, 8192)
    put(3, "dense", WIDE_128, 1024, 4096, 16384)
    put(3, "dense", WIDE, 128)
    put(3, "window", WIDE, 16384)
    put(3, "window", WIDE_128, 2048)
    put(3, "dropout", BERT, 2048)
    put(3, "t5", BERT, 128)
    for fill in (0.3, 0.8):
        put(3, "padded", BERT, 2048, fill=fill)
    return list(found.values())
