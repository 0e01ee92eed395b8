"""What one call of attention obeys, what it returns, and what a backend is.

Every way to compute attention keeps these: `scale` multiplies the scores; dropout acts on probabilities; a query with
nothing to attend to gives output 0 and logsumexp -inf, with zero gradients; what a backend cannot do it refuses, nothing
falls back silently.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from minitrans.attention.bias import AttentionBias
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import NO_MASK, AttentionMask


@dataclass(frozen=True, eq=False)
class AttentionRules:
    """The rules of one call. A further one is a field here, and a line in the backends that keep it.

    Attributes:
        mask: what may attend to what.
        bias: what is added to the scores.
        layout: where the sequences of a packed batch lie.
        scale: factor of the scores; None = K ** -0.5.
        softcap: c of c · tanh(score / c), applied before the bias (Gemma Team 2024, "Gemma 2"); None = none.
        dropout_p: probability with which a probability is dropped.
        need_weights: return the probabilities too.
        need_logsumexp: return the logsumexp too.
        x: (B, T, D) or (N, D), what the queries were projected from; for mechanisms, backends do not look at it.
    """

    mask: AttentionMask = field(default_factory=lambda: NO_MASK)
    bias: AttentionBias | None = None
    layout: PackedLayout | None = None
    scale: float | None = None
    softcap: float | None = None
    dropout_p: float = 0.0
    need_weights: bool = False
    need_logsumexp: bool = False
    x: Tensor | None = None

    def scale_for(self, query: Tensor) -> float:
        """The factor of the scores of these queries (..., K) (M6)."""
        return float(query.shape[-1] ** -0.5) if self.scale is None else self.scale


@dataclass(frozen=True, eq=False)
class AttentionResult:
    """What an attention returns.

    Attributes:
        output: (B, H, T, K), or (N, H, K) for a packed batch.
        weights: (B, H, T, S) probabilities before dropout, or None where they were not asked for.
            For a packed batch (1, H, N, N).
        logsumexp: (B, H, T), log of the sum of exp(scores), or None where it was not asked for.
            For a packed batch (N, H). Of low-precision inputs it may be float32.
    """

    output: Tensor
    weights: Tensor | None = None
    logsumexp: Tensor | None = None


class Backend(Protocol):
    """One way to compute exact softmax attention."""

    name: str

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """query (B, H, T, K); key, value (B, G, S, K) with G dividing H; or (N, H, K), (N, G, K) with a layout.

        Weights may be left out even if they are needed: `attend` computes them from the logsumexp.
        """
        ...

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """What of such a call it cannot do, in a word or a few; None where it can do all."""
        ...

    def remark(self, query: Tensor) -> str | None:
        """What is worth knowing of how it runs for such queries, for `explain_backend`."""
        ...
