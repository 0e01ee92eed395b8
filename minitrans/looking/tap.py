"""What is between the modules of an attention: its last variant for the moment sees queries, keys and the rules of the call."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import torch
from torch import Tensor

from minitrans.attention.dispatch import attend
from minitrans.attention.eager import EagerAttention
from minitrans.attention.rules import AttentionResult, AttentionRules
from minitrans.attention.variant import LayerSizes, Variant
from minitrans.errors import NotSupportedError
from minitrans.layers.multi_head_attention import MultiHeadAttention, require_support

# (name of the point, its value) -> its value, or another one in its place
Touch = Callable[[str, Tensor], Tensor]


class Tap(Variant):
    """Computes what the attention computes without it, and shows it.

    Args:
        attention: where it stands, after all variants.
        names: of the points that are looked at.
        touch: gets them.
        swaps: compute by the oracle, so that what `touch` returns for scores and pattern counts, and has gradients.

    Raises:
        NotSupportedError: for scores of a mechanism that has none, and to swap its pattern.
    """

    def __init__(self, attention: MultiHeadAttention, names: Collection[str], touch: Touch, swaps: bool) -> None:
        heads, groups = attention.num_heads, attention.num_kv_heads
        super().__init__(LayerSizes(attention.query.in_features, heads, groups, attention.head_width))
        self.names, self.touch = names, touch
        self.shows = bool({"scores", "pattern"} & {*names})
        self.swaps = swaps and self.shows
        self.backend = attention.backend
        # not as a submodule: the mechanism stays where it is
        self.mechanism = [each for each in attention.all_variants if each.is_mechanism][-1:]
        if self.mechanism and ("scores" in names or self.swaps):
            name = self.mechanism[0].name or type(self.mechanism[0]).__name__
            raise NotSupportedError(
                f"attention {name!r} is no softmax of scores: of its pattern there is the value alone"
            )

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """What the attention supports without it."""
        return self.mechanism[0].supports(rules, query) if self.mechanism else None

    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """As without it, or by the oracle."""
        if "rot_q" in self.names:
            query = _heads_second(self.touch("rot_q", _heads_second(query)))
        if "rot_k" in self.names:
            key = _heads_second(self.touch("rot_k", _heads_second(key)))
        if self.swaps:
            return _Shown(self.touch)(query, key, value, rules)
        if self.shows:
            with torch.no_grad():
                self._show(query, key, value, replace(rules, dropout_p=0.0))
        if not self.mechanism:
            return attend(query, key, value, rules, backend=self.backend)
        return self.mechanism[0].compute(query, key, value, rules)

    def _show(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> None:
        """The scores and the pattern, computed beside."""
        if not self.mechanism:
            _Shown(self.touch)(query, key, value, rules)
            return
        rules = replace(rules, need_weights=True, need_logsumexp=False)
        require_support(self.mechanism[0], rules, query)
        weights = self.mechanism[0].compute(query, key, value, rules).weights
        if weights is None:
            raise NotSupportedError(f"attention {self.mechanism[0].name!r} has no pattern")
        self.touch("pattern", weights)


def _heads_second(x: Tensor) -> Tensor:
    """(B, H, T, K) <-> (B, T, H, K); (N, H, K) stays."""
    return x.transpose(1, 2) if x.dim() == 4 else x


class _Shown(EagerAttention):
    """The oracle, whose scores and probabilities pass through someone's hands."""

    def __init__(self, touch: Touch) -> None:
        self.touch = touch

    def softmax(self, scores: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `EagerAttention`; a score that is given for a masked pair does not count."""
        if allowed is None:
            scores = self.touch("scores", scores)
        else:
            given = self.touch("scores", scores.masked_fill(~allowed, -torch.inf))
            scores = torch.where(allowed, given, scores)
        weights, logsumexp = super().softmax(scores, allowed)
        return self.touch("pattern", weights), logsumexp
