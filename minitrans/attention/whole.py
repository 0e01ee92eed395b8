"""What mechanisms share that have no weight for a pair, and see a text as a whole."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import dropout

from minitrans.attention.packed import by_sequence
from minitrans.attention.rules import AttentionResult, AttentionRules
from minitrans.attention.variant import Variant


class WholeMechanism(Variant):
    """One overrides `mix`; key padding is all of a mask that it knows, and dropout drops values."""

    laws = ("linear in the values",)
    whole_texts = True

    def mix(self, query: Tensor, key: Tensor, value: Tensor, real: Tensor, scale: float) -> Tensor:
        """(B, H, T, K), (B, H, S, K) -> (B, H, T, K); `real` (B, S) bool: which keys are tokens."""
        raise NotImplementedError

    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """Sequence by sequence in a packed batch."""
        return by_sequence(self._rectangle, query, key, value, rules)

    def _rectangle(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
        real = rules.mask.key_padding
        if real is None:
            real = torch.ones_like(key[:, 0, :, 0], dtype=torch.bool)
        kept = dropout(torch.ones_like(value[..., :1]), rules.dropout_p) if rules.dropout_p else 1.0
        hidden = ~real[:, None, :, None]
        key, value = key.masked_fill(hidden, 0.0), (value * kept).masked_fill(hidden, 0.0)
        output = self.mix(query, key, value, real, rules.scale_for(query))
        return AttentionResult(output.masked_fill(~real.any(dim=1)[:, None, None, None], 0.0))

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """Key padding, dropout, a scale."""
        mask = rules.mask
        patterns = (mask.window, mask.blocks, mask.rule, mask.dense, mask.global_tokens)
        lacking = {
            "masks but key padding": mask.causal or any(part is not None for part in patterns),
            "a bias": rules.bias is not None, "softcap": rules.softcap is not None,
            "probabilities": rules.need_weights, "the logsumexp": rules.need_logsumexp,
        }  # fmt: skip
        return next((name for name, asked in lacking.items() if asked), None)


def too_long(longest: int, rules: AttentionRules, query: Tensor) -> str | None:
    """What one that has numbers of its own for each place cannot do: texts of more places."""
    length = query.shape[2] if rules.layout is None else rules.layout.max_seqlen
    return f"texts of {length} tokens (it is built for the {longest} of `longest`)" if length > longest else None


def segments(real: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """(B, S) bool -> (B, count, S): rows that average the real tokens by segments of nearly one size.

    A text of fewer tokens than `count` has a segment for each, and rows of zeros.
    """
    rank, length = real.long().cumsum(1) - 1, real.sum(dim=1, keepdim=True)
    which = rank * length.clamp(max=count) // length.clamp(min=1)  # (B, S)
    member = (which[:, None] == torch.arange(count, device=real.device)[:, None]) & real[:, None]
    return member.to(dtype) / member.sum(dim=-1, keepdim=True).clamp(min=1).to(dtype)


def first_real(real: Tensor) -> Tensor:
    """(B, S) -> (B): where the first token of each text stands."""
    return real.int().argmax(dim=1)
