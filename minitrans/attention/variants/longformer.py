"""Longformer: a window, and global tokens with projections of their own (Beltagy et al. 2020, section 3.1). O(n (w + g) K) in
kernels, O(n² K) here."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from minitrans.attention.bias import DenseBias
from minitrans.attention.dense import DenseMechanism
from minitrans.attention.mask import MaskRule
from minitrans.attention.rules import AttentionResult, AttentionRules
from minitrans.attention.variant import Identity, LayerSizes
from minitrans.attention.whole import first_real
from minitrans.errors import NotSupportedError


class Longformer(DenseMechanism):
    """Tokens see window // 2 to each side and the global tokens; these see all, by queries, keys and values of their own.

    Global are those of the mask, or the first token. Their projections begin as copies of the block's.

    Args:
        sizes: of the block.
        window: even width in tokens, half to each side.
    """

    name = "longformer"
    trial = {"window": 2}
    identity = Identity({"window": 10**6})
    whole_texts = True

    def __init__(self, sizes: LayerSizes, *, window: int = 512) -> None:
        super().__init__(sizes)
        if not isinstance(window, int) or window < 2 or window % 2:
            raise ValueError(f"window must be an even number of at least 2, got {window!r}")
        self.side = window // 2
        self.query_global = nn.Linear(sizes.width, sizes.heads * sizes.head_width)
        # a bias of keys adds the same number to all scores of a row, which changes nothing
        self.key_global = nn.Linear(sizes.width, sizes.kv_heads * sizes.head_width, bias=False)
        self.value_global = nn.Linear(sizes.width, sizes.kv_heads * sizes.head_width)

    def adopt(self, attention: nn.Module) -> None:
        """Copies."""
        for name in ("query", "key", "value"):
            own, of_block = self.get_submodule(f"{name}_global"), attention.get_submodule(name)
            assert isinstance(own, nn.Linear)
            assert isinstance(of_block, nn.Linear)
            own.weight.copy_(of_block.weight)
            if own.bias is not None:
                own.bias.copy_(torch.zeros_like(own.bias) if of_block.bias is None else of_block.bias)

    def rectangle(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """A padded batch: the ordinary tokens, and the global ones, each in a softmax of its own."""
        if query.shape[2] != key.shape[2] or rules.x is None:
            raise NotSupportedError(f"attention {self.name!r} does not support other keys than those of its queries")
        if rules.bias is not None:  # of the ordinary queries and keys, for all
            rules = replace(rules, bias=DenseBias(rules.bias.to_dense(query, key, rules.scale_for(query))))
        mask, tokens = rules.mask, torch.arange(key.shape[2], device=key.device)
        is_global = mask.global_tokens
        if is_global is None:
            real = mask.key_padding
            first = (
                torch.zeros(1, 1, dtype=torch.long, device=key.device) if real is None else first_real(real)[:, None]
            )
            is_global = (tokens == first).expand(len(key), -1)
        marked = is_global

        def near(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return ((i - j).abs() <= self.side) | marked[b, j]

        local = replace(rules, mask=mask.narrowed(MaskRule(near, len(key))))
        ordinary = super().rectangle(query, key, value, local).output
        own = [
            projection(rules.x).unflatten(-1, (-1, self.sizes.head_width)).transpose(1, 2)
            for projection in (self.query_global, self.key_global, self.value_global)
        ]
        every = super().rectangle(own[0], own[1], own[2], rules).output
        return AttentionResult(torch.where(is_global[:, None, :, None], every, ordinary))

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """Two attentions make the output: no probabilities for both."""
        lacking = {
            "another scale than K ** -0.5": rules.scale_for(query) != query.shape[-1] ** -0.5,
            "probabilities": rules.need_weights, "the logsumexp": rules.need_logsumexp,
        }  # fmt: skip
        return next((name for name, asked in lacking.items() if asked), None)
