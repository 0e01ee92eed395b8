"""Soft capping of scores (Gemma Team 2024, "Gemma 2", section 2): c · tanh(score / c) stays between -c and c."""

from __future__ import annotations

from minitrans.attention.variant import Identity, LayerSizes, Variant


class Softcap(Variant):
    """Caps the scores before the bias is added and the mask applied.

    Args:
        sizes: of the block.
        cap: c.
    """

    name = "softcap"
    trial = {"cap": 1.5}
    identity = Identity({"cap": 1e8}, tolerance=1e-10, limit="cap to infinity")
    laws = ("rows sum to one", "linear in the values")

    def __init__(self, sizes: LayerSizes, *, cap: float = 50.0) -> None:
        super().__init__(sizes)
        if not cap > 0:
            raise ValueError(f"cap must be more than 0, got {cap!r}")
        self.softcap = float(cap)
