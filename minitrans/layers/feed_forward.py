"""The position-wise feed-forward network (Vaswani et al. 2017, section 3.3, equation 2), plain or gated."""

from __future__ import annotations

from torch import Tensor, nn

from minitrans.layers.activations import activation


class FeedForward(nn.Module):
    """down(act(up(x))), or gated: down(act(gate(x)) · up(x)) (Shazeer 2020, "GLU Variants Improve Transformer").

    Args:
        width: D.
        hidden_width: F.
        act: a name of `activations.ACTIVATIONS`.
        gated: multiply with a second projection.
        bias: whether the projections have one.
        dropout: probability, on the F-wide activations; BERT has none there.
    """

    def __init__(
        self,
        width: int,
        hidden_width: int,
        *,
        act: str = "gelu",
        gated: bool = False,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden_width, bias=bias) if gated else None
        self.up = nn.Linear(width, hidden_width, bias=bias)
        self.down = nn.Linear(hidden_width, width, bias=bias)
        self.act = activation(act)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        hidden = self.act(self.up(x)) if self.gate is None else self.act(self.gate(x)) * self.up(x)  # (..., F)
        y: Tensor = self.down(self.dropout(hidden))
        return y
