"""Full attention: every token may attend to every other (Vaswani et al. 2017, "Attention Is All You Need")."""

from __future__ import annotations

from minitrans.attention.bias import AttentionBias
from minitrans.attention.mask import AttentionMask


class FullAttention:
    """The pattern that restricts nothing."""

    name = "full"

    def restrict(self, mask: AttentionMask, bias: AttentionBias | None) -> tuple[AttentionMask, AttentionBias | None]:
        """Mask and bias unchanged."""
        return mask, bias
