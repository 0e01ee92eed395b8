"""Rotary positions that reach further than in training, as configuration files describe them.

Each kind says by which frequency a pair of columns turns, and by how much all queries and keys grow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from minitrans.attention.variant import LayerSizes
from minitrans.attention.variants.rotary import Rotary

# (frequencies (K/2) of plain rotary positions, their description, positions) -> the frequencies, and the growth
Scaling = Callable[[Tensor, Mapping[str, Any], Tensor], tuple[Tensor, float]]


def plain(frequencies: Tensor, rope: Mapping[str, Any], positions: Tensor) -> tuple[Tensor, float]:
    """Nothing scaled."""
    return frequencies, 1.0


def linear(frequencies: Tensor, rope: Mapping[str, Any], positions: Tensor) -> tuple[Tensor, float]:
    """Positions over the factor (Chen et al. 2023, "Position Interpolation")."""
    return frequencies / rope["factor"], 1.0


def dynamic(frequencies: Tensor, rope: Mapping[str, Any], positions: Tensor) -> tuple[Tensor, float]:
    """A larger base from the trained length on, the larger the longer the text of this very call.

    With a cache, keys keep the angles of the call that they came in, as in the reference.
    """
    longest = float(rope["max_position_embeddings"])
    length = (positions.max() + 1).clamp(min=longest).double()
    growth = rope["factor"] * length / longest - (rope["factor"] - 1)
    pairs = len(frequencies)  # base · growth^(K / (K - 2)), to the power of -2i / K
    exponents = torch.arange(pairs, dtype=torch.float64, device=frequencies.device) / max(pairs - 1, 1)
    return frequencies * growth**-exponents, 1.0


def yarn(frequencies: Tensor, rope: Mapping[str, Any], positions: Tensor) -> tuple[Tensor, float]:
    """Fast pairs as they are, slow ones over the factor, a ramp between; scores grow (Peng et al. 2023, "YaRN")."""
    factor, width, length = rope["factor"], 2 * len(frequencies), rope["original_max_position_embeddings"]

    def pair_that_turns(times: float) -> float:
        """The pair, counted in columns over 2, that turns so many times over the trained length."""
        return float(width * math.log(length / (times * 2 * math.pi)) / (2 * math.log(rope["rope_theta"])))

    low, high = pair_that_turns(rope.get("beta_fast") or 32), pair_that_turns(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    places = torch.arange(len(frequencies), dtype=torch.float64, device=frequencies.device)
    slow = ((places - low) / ((high - low) or 0.001)).clamp(0, 1)
    return frequencies * (slow / factor + (1 - slow)), _growth(rope)


def _growth(rope: Mapping[str, Any]) -> float:
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])

    def growth(weight: float) -> float:
        return 1.0 if rope["factor"] <= 1 else 0.1 * weight * math.log(rope["factor"]) + 1.0

    over, under = rope.get("mscale"), rope.get("mscale_all_dim")
    return growth(over) / growth(under) if over and under else growth(1.0)


def llama3(frequencies: Tensor, rope: Mapping[str, Any], positions: Tensor) -> tuple[Tensor, float]:
    """As YaRN without growth, the ramp by wavelengths (Grattafiori et al. 2024, "The Llama 3 Herd of Models")."""
    low, high, length = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    turns = length * frequencies / (2 * math.pi)  # over the trained length
    fast = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (fast + (1 - fast) / rope["factor"]), 1.0


# kind -> how it scales, and what its description must hold
SCALINGS: dict[str, tuple[Scaling, tuple[str, ...]]] = {
    "default": (plain, ()),
    "linear": (linear, ("factor",)),
    "dynamic": (dynamic, ("factor",)),
    "yarn": (yarn, ("factor",)),
    "llama3": (llama3, ("factor", "low_freq_factor", "high_freq_factor")),
}
_POSITIVE = {
    "rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "max_position_embeddings",
    "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim",
}  # fmt: skip


def wrong_description(rope: Mapping[str, Any]) -> str | None:
    """What a description of rotary positions would have to be; None where it is understood."""
    kind = rope["rope_type"]
    if not isinstance(kind, str) or kind not in SCALINGS:
        return f"of a rope_type that is known, {', '.join(SCALINGS)}"
    needed = SCALINGS[kind][1]
    if any(rope.get(key) is None for key in needed):
        return f"of {kind!r} with {', '.join(needed)}"
    if rope.get("partial_rotary_factor") not in (None, 1) or any(isinstance(value, dict) for value in rope.values()):
        return "one for all layers and all columns of a head"
    numbers = [rope[key] for key in _POSITIVE & rope.keys() if rope[key] is not None]
    if not all(isinstance(x, int | float) and not isinstance(x, bool) and 0 < x < math.inf for x in numbers):
        return "of positive numbers"
    if rope["rope_theta"] == 1 or (kind == "llama3" and rope["low_freq_factor"] == rope["high_freq_factor"]):
        return "of different frequencies: rope_theta is not 1, and low_freq_factor is not high_freq_factor"
    return None


class ScaledRotary(Rotary):
    """Rotary positions by a description.

    Args:
        sizes: of the block.
        rope: `rope_type`, `rope_theta`, and what the kind needs, as in SCALINGS; with `max_position_embeddings`.
        options: layout and fraction of `Rotary`.
    """

    def __init__(self, sizes: LayerSizes, rope: Mapping[str, Any], **options: Any) -> None:
        super().__init__(sizes, base=rope["rope_theta"], **options)
        self.rope, self.alike = rope, f"rotary {dict(rope)} {self.width}"

    def frequencies(self, positions: Tensor) -> tuple[Tensor, float]:
        """Those of the kind."""
        frequencies, _ = super().frequencies(positions)
        return SCALINGS[self.rope["rope_type"]][0](frequencies, self.rope, positions)

    def extra_repr(self) -> str:
        """The description, for print(model)."""
        return str(dict(self.rope))
