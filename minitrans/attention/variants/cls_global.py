"""A window and global first tokens (Beltagy et al. 2020, section 3.1), or first tokens as sinks (Xiao et al. 2023,
"StreamingLLM"). O(n (w + g) K)."""

from __future__ import annotations

from torch import Tensor

from minitrans.attention.pattern import Pattern
from minitrans.attention.variant import Identity, LayerSizes


class FirstGlobal(Pattern):
    """|i - j| <= window // 2, and everything to and from the first tokens.

    Args:
        sizes: of the block.
        window: even width in tokens, half to each side.
        tokens: how many first tokens are global; 1 is BERT's [CLS].
    """

    name = "cls_global"
    trial = {"window": 2}
    identity = Identity({"window": 10**6})

    def __init__(self, sizes: LayerSizes, *, window: int = 128, tokens: int = 1) -> None:
        super().__init__(sizes)
        if not isinstance(window, int) or window < 2 or window % 2 or not isinstance(tokens, int) or tokens < 1:
            raise ValueError(
                f"expected an even window of at least 2 and tokens of at least 1, got {window!r}, {tokens!r}"
            )
        self.side, self.tokens = window // 2, tokens

    def allows(self, i: Tensor, j: Tensor, n: Tensor) -> Tensor:
        """The window, the first keys and the first queries."""
        return ((i - j).abs() <= self.side) | (j < self.tokens) | (i < self.tokens)


class WindowSinks(FirstGlobal):
    """|i - j| <= window // 2, and everybody sees the first tokens, which themselves see no further than their window."""

    name = "window_sinks"

    def allows(self, i: Tensor, j: Tensor, n: Tensor) -> Tensor:
        """The window and the first keys."""
        return ((i - j).abs() <= self.side) | (j < self.tokens)
