"""Rotary position embeddings (Su et al. 2021, "RoFormer", section 3.2.2): queries and keys turn with their position."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from minitrans.attention.context import Context
from minitrans.attention.variant import Identity, LayerSizes, Variant

RotaryLayout = Literal["halves", "interleaved"]
RotaryScaling = Literal["linear", "ntk"]


class Rotary(Variant):
    """Each pair of columns is turned by the angle position · base^(-2i/K), so that a score depends on the distance i - j.

    Args:
        sizes: of the block.
        base: of the frequencies.
        layout: which columns make a pair: "halves", i and i + K/2 (LLaMA, GPT-NeoX); "interleaved", 2i and 2i + 1 (RoFormer).
        scaling: how to reach further than in training: "linear", positions over the factor (Chen et al. 2023); "ntk", a
            larger base, so that the slowest pair turns slower by the factor and the fastest as before.
        factor: of the scaling.
        fraction: how much of each head turns, its first columns (Black et al. 2022, "GPT-NeoX-20B", section 2.1.1).
    """

    name = "rotary"
    identity = Identity({"scaling": "linear", "factor": 1e12}, limit="factor to infinity: nothing turns")
    laws = ("rows sum to one", "linear in the values", "positions enter by their distances")

    def __init__(
        self,
        sizes: LayerSizes,
        *,
        base: float = 10000.0,
        layout: RotaryLayout = "halves",
        scaling: RotaryScaling | None = None,
        factor: float = 1.0,
        fraction: float = 1.0,
    ) -> None:
        super().__init__(sizes)
        self.width = int(sizes.head_width * fraction)  # of the columns that turn
        if self.width % 2 or not 0 < fraction <= 1:
            part = "" if fraction == 1 else f" times the fraction {fraction}"
            raise ValueError(f"rotary attention turns pairs: the head width must be even, got {sizes.head_width}{part}")
        if layout not in get_args(RotaryLayout):
            raise ValueError(f"unknown rotary layout {layout!r}; known: {', '.join(get_args(RotaryLayout))}")
        if scaling not in (None, *get_args(RotaryScaling)) or not factor >= 1:
            known = ", ".join(get_args(RotaryScaling))
            raise ValueError(
                f"scaling must be one of {known} or None, and factor at least 1, got {scaling!r}, {factor!r}"
            )
        if scaling == "ntk":
            base *= factor ** (self.width / max(self.width - 2, 1))
        self.base, self.layout = base, layout
        self.stretch = factor if scaling == "linear" else 1.0
        self.alike = f"rotary {base} {self.width} {self.stretch}"  # of those that turn by the same angles

    def project(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys turned; values as they are."""
        if context.positions is None:
            raise ValueError("rotary attention needs to know where the tokens stand: Context(positions=...)")
        known = f"{self.alike} {query.dtype}"
        if known not in context.shared:
            context.shared[known] = self.angles(context.positions, query)
        cos, sin = context.shared[known]
        return self.turn(query, cos, sin), self.turn(key, cos, sin), value

    def angles(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (B, 1, T, K/2) of positions (B, T), or (N, 1, K/2) of (N); in float64, rounded once."""
        frequencies, growth = self.frequencies(positions)
        angles = (positions.double()[..., None] * frequencies).unsqueeze(-2 if positions.dim() == 1 else -3)
        return (angles.cos() * growth).to(like.dtype), (angles.sin() * growth).to(like.dtype)

    def frequencies(self, positions: Tensor) -> tuple[Tensor, float]:
        """The angles (K/2) of position 1, and the factor of what is turned."""
        exponents = torch.arange(0, self.width, 2, dtype=torch.float64, device=positions.device)
        return self.base ** (-exponents / self.width) / self.stretch, 1.0

    def turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(..., K) -> (..., K): (a, b) becomes (a cos - b sin, a sin + b cos)."""
        if self.width < x.shape[-1]:
            return torch.cat([self.turn(x[..., : self.width], cos, sin), x[..., self.width :]], dim=-1)
        if self.layout == "interleaved":
            a, b = x[..., 0::2], x[..., 1::2]
            return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
