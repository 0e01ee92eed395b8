"""Linear attention: phi(q)·phi(k) in the place of exp(scale · q·k), so that the order of the products can be changed
(Katharopoulos et al. 2020, "Transformers are RNNs", equations 4 to 6)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from minitrans.attention.dense import DenseMechanism, biased, forbid
from minitrans.attention.rules import AttentionResult, AttentionRules

_CHUNK = 64  # tokens of a causal batch that meet each other pair by pair


class FeatureMechanism(DenseMechanism):
    """weights_ij = phi(q_i)·phi(k_j) / sum over j; one overrides `features`.

    O(n F K) with F features, where the mask is key padding and causality; under other masks, a bias or dropout, and where
    the weights are asked for, the same through all pairs in O(n² F).
    """

    laws: ClassVar[tuple[str, ...]] = ("rows sum to one", "linear in the values", "linear form = quadratic form")

    def features(self, x: Tensor, places: Tensor, of_keys: bool) -> Tensor:
        """(B, H, T, K) -> (B, H, T, F), of scale^(1/2) q or scale^(1/2) k, at `places` (T) among the keys."""
        raise NotImplementedError

    def rectangle(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """A padded batch, in at least float32."""
        dtype, queries, keys = query.dtype, query.shape[2], key.shape[2]
        wide = torch.float32 if dtype.itemsize < torch.float32.itemsize else dtype
        root, group = rules.scale_for(query) ** 0.5, query.shape[1] // key.shape[1]
        places = torch.arange(keys - queries, keys, device=query.device)
        of_query = self.features(query.to(wide) * root, places, False)
        whole = key.to(wide).repeat_interleave(group, dim=1) * root  # (B, H, S, K)
        of_key = self.features(whole, torch.arange(keys, device=key.device), True)
        if self._needs_pairs(rules, queries, keys):
            bias, allowed = biased(torch.zeros_like(of_query[..., :1]), query, key, rules)
            bias = forbid(bias.expand(-1, -1, -1, keys), allowed).to(wide)
            kernel = of_query @ of_key.mT * torch.exp(bias - bias.amax(dim=-1, keepdim=True).detach())
            kernel = kernel.masked_fill(~allowed, 0.0)
            weights = (kernel / _safe(kernel.sum(dim=-1, keepdim=True))).to(dtype)
            return AttentionResult(self.output(weights, value, rules), weights if rules.need_weights else None)
        real = rules.mask.key_padding
        if real is not None:
            of_key = of_key.masked_fill(~real[:, None, :, None], 0.0)
        values = pad(value.to(wide), (0, 1), value=1.0)  # a last column of ones: sums of weights
        summed = _causal if rules.mask.causal and queries > 1 else _both_sides
        sums = summed(of_query, of_key, values.repeat_interleave(group, dim=1))
        return AttentionResult((sums[..., :-1] / _safe(sums[..., -1:])).to(dtype))

    def _needs_pairs(self, rules: AttentionRules, queries: int, keys: int) -> bool:
        mask = rules.mask
        pattern = any(part is not None for part in (mask.window, mask.blocks, mask.rule, mask.dense))
        asked = rules.bias is not None or rules.dropout_p > 0 or rules.need_weights
        return pattern or asked or (mask.causal and queries not in (1, keys))

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """There are no scores to cap, and the scale is what the maps are made for."""
        if rules.scale_for(query) != query.shape[-1] ** -0.5:
            return "another scale than K ** -0.5"
        return "softcap" if rules.softcap is not None else super().supports(rules, query)


def _safe(sums: Tensor) -> Tensor:
    """A row with nothing in it is divided by one."""
    return sums.where(sums > 0, 1.0)


def _both_sides(of_query: Tensor, of_key: Tensor, values: Tensor) -> Tensor:
    return of_query @ (of_key.mT @ values)


def _causal(of_query: Tensor, of_key: Tensor, values: Tensor) -> Tensor:
    """Chunk by chunk: what came before is one sum (F, K + 1), inside a chunk there are pairs."""
    state, outputs = torch.zeros_like(of_key.mT[..., :1] @ values[..., :1, :]), []
    for q, k, v in zip(*(torch.split(x, _CHUNK, dim=-2) for x in (of_query, of_key, values)), strict=True):
        outputs.append(q @ state + (q @ k.mT).tril() @ v)
        state = state + k.mT @ v
    return torch.cat(outputs, dim=-2)
