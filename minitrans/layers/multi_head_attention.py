"""Multi-head attention (Vaswani et al. 2017, section 3.2.2): project, attend in each head, join, project.

x (B, T, D) ──query──► (B, H, T, K) ─┐
            ──key────► (B, G, S, K) ─┼─ project ─ attend ─ finish ─ join ──output──► (B, T, D)
            ──value──► (B, G, S, K) ─┘     hooks of the variants, see `attention.variant`
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from minitrans.attention.bias import AttentionBias, summed
from minitrans.attention.context import Context
from minitrans.attention.dispatch import attend, compute_attention
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.attention.registry import check_backend
from minitrans.attention.rules import AttentionResult, AttentionRules
from minitrans.attention.specs import VariantSpec, build_variants
from minitrans.attention.variant import CallSizes, LayerSizes, Variant
from minitrans.errors import NotSupportedError
from minitrans.layers.cache import CrossCache, GrowingCache
from minitrans.layers.position_bias import BucketBias, DistanceEmbedding

_NOTHING_PACKED = PackedLayout.from_lengths([])


class AttentionOutput(NamedTuple):
    """What a mixer returns: (B, T, D) or (N, D), and the probabilities (B, H, T, S) if it has any and was asked for them."""

    output: Tensor
    weights: Tensor | None = None


class MultiHeadAttention(nn.Module):
    """Self-attention.

    Args:
        width: D.
        num_heads: H.
        num_kv_heads: G, how many heads keys and values have; None = H (Ainslie et al. 2023, "GQA").
        head_width: K; None = D / H.
        bias: whether the projections have one.
        output_bias: whether the last one does; None = as the others.
        dropout: probability, on the attention probabilities.
        scale: factor of the scores; None = K ** -0.5 (M6: T5 has 1).
        softcap: see `AttentionRules`.
        distance_embedding: a table of relative positions (M8), or of distances (UMT5).
        own: variants that belong to the architecture: they run before those of `set_attention`, which leaves them alone.
        backend: how to compute it.

    Raises:
        ValueError: where the sizes do not divide, or the backend is unknown.
    """

    own: Sequence[Variant]
    variants: Sequence[Variant]

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_width: int | None = None,
        bias: bool = True,
        output_bias: bool | None = None,
        dropout: float = 0.0,
        scale: float | None = None,
        softcap: float | None = None,
        distance_embedding: DistanceEmbedding | BucketBias | None = None,
        own: Iterable[Variant] = (),
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if head_width is None and width % num_heads:
            raise ValueError(f"the width {width} is not a multiple of the number of heads {num_heads}")
        if num_heads % self.num_kv_heads:
            raise ValueError(f"{num_heads} heads cannot share {self.num_kv_heads} key/value heads evenly")
        self.head_width = width // num_heads if head_width is None else head_width
        self.query = nn.Linear(width, self.num_heads * self.head_width, bias=bias)
        self.key = nn.Linear(width, self.num_kv_heads * self.head_width, bias=bias)
        self.value = nn.Linear(width, self.num_kv_heads * self.head_width, bias=bias)
        output_bias = bias if output_bias is None else output_bias
        self.output = nn.Linear(self.num_heads * self.head_width, width, bias=output_bias)
        self.distance_embedding = distance_embedding
        self.dropout_p, self.scale, self.softcap = dropout, scale, softcap
        self.own = cast("Sequence[Variant]", nn.ModuleList(own))
        check_backend(backend)
        self.install([], backend)

    def forward(self, x: Tensor, context: Context, cache: GrowingCache | None = None) -> AttentionOutput:
        """(B, T, D) -> (B, T, D), or (N, D) -> (N, D); with a cache, keys and values of earlier tokens come before."""
        query, key, value = self._split(self.query(x)), self._split(self.key(x)), self._split(self.value(x))
        for variant in (*self.own, *self.variants):
            if cache is not None and variant.whole_texts:
                raise NotSupportedError(f"attention {variant.name!r} looks at whole texts: it does not support a cache")
            query, key, value = variant.project(query, key, value, context)
        bias = context.bias if self.distance_embedding is None else summed(context.bias, self.distance_embedding.bias())
        if cache is not None:
            key, value = cache.extend(key, value)  # (B, G, S, K)
            bias = cache.placed(bias)
        return self._attend(x, query, key, value, context, context.mask, bias)

    @property
    def all_variants(self) -> list[Variant]:
        """The architecture's own, then those swapped in. Of several that compute, the last does: it takes the place."""
        return [*self.own, *self.variants]

    def _attend(
        self,
        x: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        context: Context,
        mask: AttentionMask,
        bias: AttentionBias | None,
    ) -> AttentionOutput:
        dropout_p = self.dropout_p if self.training else 0.0
        rules = AttentionRules(mask, bias, context.layout, self.scale, self.softcap, dropout_p, context.need_weights)
        if self.own or self.variants:
            result = self._varied(x, query, key, value, context, rules)
        else:
            result = compute_attention(query, key, value, rules, self.backend)
        output, weights = result.output, result.weights
        if context.head_mask is not None:  # the factor of a head's probabilities is the factor of its output
            factors = context.head_mask[:, None, None]
            weights = None if weights is None else weights * factors
            output = output * (factors[:, 0] if context.layout is not None else factors)
        return AttentionOutput(self.output(self._join(output)), weights)

    def _varied(
        self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, context: Context, rules: AttentionRules
    ) -> AttentionResult:
        """Attention with the hooks of the variants around it."""
        variants, layout, mask, bias = self.all_variants, rules.layout, rules.mask, rules.bias
        lengths = (query.shape[2], key.shape[2]) if layout is None else (layout.max_seqlen, layout.max_seqlen)
        batch = query.shape[0] if layout is None else len(layout.cu_seqlens) - 1
        sizes = CallSizes(batch, *lengths, self.num_heads, query.device, layout, x, context.positions, context.first)
        softcap, mechanism = rules.softcap, _mechanism(variants)
        for variant in variants:
            mask, bias = variant.restrict(mask, bias, sizes)
            softcap = softcap if variant.softcap is None else variant.softcap
        needs_logsumexp = any(variant.needs_logsumexp for variant in variants)
        rules = replace(rules, mask=mask, bias=bias, softcap=softcap, need_logsumexp=needs_logsumexp, x=x)
        if mechanism is None:
            result = attend(query, key, value, rules, backend=self.backend)
        else:
            require_support(mechanism, rules, query)
            result = mechanism.compute(query, key, value, rules)
        for variant in variants:
            result = variant.finish(result, x, context)
        return result

    def set_attention(
        self, attention: VariantSpec = "full", backend: str = "auto", *, dropout: float | None = None, **place: Any
    ) -> None:
        """Swaps the variants, there and back; the weights stay, and those of the new variants are fresh.

        Args:
            attention: see `attention.specs`; "full" = none.
            backend: how to compute softmax attention; a mechanism only has "auto".
            dropout: probability, on the attention probabilities; None = as it is.
            place: `layer` and `longest` of `LayerSizes`.

        Raises:
            ValueError, TypeError: for an unknown backend or variant, or wrong options of one.
            NotSupportedError: for a backend with a mechanism.
        """
        self.install(self.build(attention, backend, **place), backend, dropout)
        self.adopt()

    def build(self, attention: VariantSpec, backend: str = "auto", **place: Any) -> list[Variant]:
        """The variants for the sizes of this module."""
        sizes = LayerSizes(self.query.in_features, self.num_heads, self.num_kv_heads, self.head_width, **place)
        variants = build_variants(attention, sizes)
        _check_pair([*self.own, *variants], backend)
        return variants

    def install(self, variants: Iterable[Variant], backend: str = "auto", dropout: float | None = None) -> None:
        """Puts in variants that are built; on the device and in the dtype of the weights."""
        weight, modules = self.query.weight, nn.ModuleList(variants).train(self.training)
        # on the meta device, while a checkpoint is planned, variants keep their fresh values
        modules = modules.to(weight.dtype) if weight.device.type == "meta" else modules.to(weight.device, weight.dtype)
        self.variants = cast("Sequence[Variant]", modules)
        self.backend = backend
        if dropout is not None:
            self.dropout_p = dropout
            for each in (each for variant in self.own for each in variant.modules() if isinstance(each, nn.Dropout)):
                each.p = dropout

    def adopt(self, fresh: Container[int] | None = None) -> None:
        """Lets variants take what they begin with from the weights; of all, or of those with these places in the list."""
        if self.query.weight.device.type != "meta":
            for place, variant in enumerate(self.variants):
                if fresh is None or place in fresh:
                    with torch.no_grad():
                        variant.adopt(self)

    def set_backend(self, backend: str) -> None:
        """Changes how softmax attention is computed. Raises as `set_attention` does."""
        _check_pair(self.all_variants, backend)
        self.backend = backend

    def why_not_packed(self) -> str | None:
        """What the variants, own ones too, cannot do on a packed batch; None where they can do all."""
        rules = AttentionRules(layout=_NOTHING_PACKED)
        nothing = self.query.weight.new_empty(0, self.num_heads, self.head_width)
        mechanism = _mechanism(self.all_variants)
        return None if mechanism is None else mechanism.supports(rules, nothing)

    def why_not_static(self) -> str | None:
        """Why keys cannot lie in a cache of fixed size, where the last query does not meet the last key; None = they can."""
        strict = (variant for variant in self.all_variants if not variant.fits_static)
        restricts = any(type(variant).restrict is not Variant.restrict for variant in strict)
        return "an attention that restricts by position" if restricts else None

    def prune_heads(self, heads: Iterable[int]) -> None:
        """Removes these heads and their weights (Michel et al. 2019, "Are Sixteen Heads Really Better than One?").

        Raises:
            ValueError: where a head does not exist, none would remain, or heads share keys and values.
        """
        gone = set(heads)
        if not gone:
            return
        if self.num_kv_heads != self.num_heads:
            raise ValueError("heads that share keys and values cannot be pruned one by one")
        if any(list(variant.parameters()) for variant in self.all_variants):
            raise ValueError("the attention has a variant with parameters of its own: prune the heads first, then swap")
        if not gone <= set(range(self.num_heads)) or len(gone) == self.num_heads:
            raise ValueError(f"heads to prune must be some, not all, of 0..{self.num_heads - 1}, got {sorted(gone)}")
        kept = torch.tensor([head for head in range(self.num_heads) if head not in gone])
        rows = (kept[:, None] * self.head_width + torch.arange(self.head_width)).flatten()
        for projection in (self.query, self.key, self.value):
            _keep(projection, rows, dim=0)
        _keep(self.output, rows, dim=1)
        self.num_heads = self.num_kv_heads = len(kept)

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, H·K) -> (B, H, T, K); (N, H·K) -> (N, H, K)."""
        heads = x.view(*x.shape[:-1], x.shape[-1] // self.head_width, self.head_width)
        return heads.transpose(1, 2) if heads.dim() == 4 else heads

    def _join(self, x: Tensor) -> Tensor:
        """(B, H, T, K) -> (B, T, H·K); (N, H, K) -> (N, H·K)."""
        return (x.transpose(1, 2) if x.dim() == 4 else x).flatten(-2)


class CrossAttention(MultiHeadAttention):
    """Attention from x to the memory of the context; its keys and values are computed once, where there is a cache."""

    def forward(self, x: Tensor, context: Context, cache: CrossCache | None = None) -> AttentionOutput:  # type: ignore[override]
        """(B, T, D) -> (B, T, D)."""
        if cache is not None and cache.key is not None and cache.value is not None:
            key, value = cache.key, cache.value
        else:
            key, value = self._split(self.key(context.memory)), self._split(self.value(context.memory))  # (B, G, S, K)
            if cache is not None:
                cache.extend(key, value)
        bias = None if self.distance_embedding is None else self.distance_embedding.bias()
        return self._attend(x, self._split(self.query(x)), key, value, context, context.memory_mask, bias)


def _check_pair(variants: Iterable[Variant], backend: str) -> None:
    check_backend(backend)
    mechanism = _mechanism(variants)
    if mechanism is not None and backend != "auto":
        own = f"a mechanism of its own: it has no backend {backend!r}; use 'auto'"
        raise NotSupportedError(f"attention {mechanism.name!r} is {own}")


def _mechanism(variants: Iterable[Variant]) -> Variant | None:
    """The one that computes, the last of them; None = a backend does."""
    return next((variant for variant in reversed([*variants]) if variant.is_mechanism), None)


def require_support(mechanism: Variant, rules: AttentionRules, query: Tensor) -> None:
    """Raises NotSupportedError where a mechanism cannot keep the rules of a call."""
    reason = mechanism.supports(rules, query)
    if reason is not None:
        rows = query.transpose(0, 1)[None]  # (1, H, N, K) of a packed batch
        padded = rules.layout is not None and mechanism.supports(replace(rules, layout=None), rows) is None
        hint = "; run the batch with its padding: padding='keep'" if padded else ""
        name = mechanism.name or type(mechanism).__name__
        raise NotSupportedError(f"attention {name!r} does not support {reason}{hint}")


def _keep(projection: nn.Linear, kept: Tensor, dim: int) -> None:
    """Keeps the `kept` rows (dim 0) or columns (dim 1) of a projection, in place."""
    kept = kept.to(projection.weight.device)
    trains = projection.weight.requires_grad
    projection.weight = nn.Parameter(projection.weight.detach().index_select(dim, kept), requires_grad=trains)
    if dim == 0:
        projection.out_features = len(kept)
        if projection.bias is not None:
            trains = projection.bias.requires_grad
            projection.bias = nn.Parameter(projection.bias.detach()[kept], requires_grad=trains)
    else:
        projection.in_features = len(kept)
