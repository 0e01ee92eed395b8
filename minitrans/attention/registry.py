"""The literal tables of attention variants and backends, and `attend`, the one door through which models reach them.

A *variant* says which attention a model has. It is a pattern (it has `restrict`, and runs on every backend) or a
mechanism (it is itself an `Attention`). A *backend* is one way to compute exact softmax attention. Adding either is one
file and one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from minitrans.attention.bias import AttentionBias
from minitrans.attention.contract import (
    OPTIONS,
    Attention,
    AttentionResult,
    check_shapes,
    require,
    supported_options,
    used_options,
)
from minitrans.attention.full import FullAttention
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.errors import NotSupportedError

if TYPE_CHECKING:
    from typing_extensions import TypeIs

VARIANTS = {
    "full": "minitrans.attention.full:FullAttention",
    "sliding_window": "minitrans.attention.sliding_window:SlidingWindowAttention",
}
BACKENDS = {
    "eager": "minitrans.attention.eager:EagerAttention",
    "sdpa": "minitrans.attention.sdpa:SdpaAttention",
    "flex": "minitrans.attention.flex:FlexAttention",
    "online_softmax": "minitrans.attention.online_softmax:OnlineSoftmaxAttention",
}


class Pattern(Protocol):
    """A variant that only narrows the mask or adds to the bias."""

    name: str

    def restrict(self, mask: AttentionMask, bias: AttentionBias | None) -> tuple[AttentionMask, AttentionBias | None]:
        """Mask and bias of the variant, from those of the model."""
        ...


Variant = Pattern | Attention
VariantSpec = str | Mapping[str, Any] | Variant

_FULL = FullAttention()
_NO_MASK = AttentionMask()


def is_pattern(variant: object) -> TypeIs[Pattern]:
    """Whether a variant is a pattern and no mechanism."""
    return hasattr(variant, "restrict")


def resolve_variant(spec: VariantSpec) -> Variant:
    """A variant from "full", {"name": "sliding_window", "window": 128}, or an object that is one already.

    Raises:
        ValueError: for an unknown name. TypeError: for an unknown option of a known variant, or another kind of object.
    """
    if isinstance(spec, str):
        spec = {"name": spec}
    if not isinstance(spec, Mapping):
        if isinstance(spec, type) or not (is_pattern(spec) or (callable(spec) and hasattr(spec, "supports"))):
            raise TypeError(
                f"attention must be a name, a mapping with a 'name', or an object with `restrict` (a pattern) or with "
                f"`supports` and `__call__` (a mechanism), got {spec!r}"
            )
        return spec
    options = dict(spec)
    name = options.pop("name", None)
    if name not in VARIANTS:
        raise ValueError(f"unknown attention variant {name!r}; known: {', '.join(VARIANTS)}")
    try:
        return cast("Variant", _load(VARIANTS[name])(**options))
    except TypeError as error:
        raise TypeError(f"attention variant {name!r} with options {options}: {error}") from None


def check_backend(backend: str) -> None:
    """Raises ValueError if `backend` is neither "auto" nor a row of `BACKENDS`."""
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"unknown attention backend {backend!r}; known: auto, {', '.join(BACKENDS)}")


@dataclass(frozen=True)
class BackendChoice:
    """Which backend a call runs on, and why."""

    name: str
    reason: str


def explain_backend(
    query: Tensor,
    key: Tensor,
    *,
    mask: AttentionMask = _NO_MASK,
    bias: AttentionBias | None = None,
    layout: PackedLayout | None = None,
    dropout_p: float = 0.0,
    need_weights: bool = False,
    attention: VariantSpec = _FULL,
    backend: str = "auto",
) -> BackendChoice:
    """The backend that `attend` would run for these arguments, and the reason.

    Raises:
        ValueError: for an unknown backend. NotSupportedError: where the backend asked for cannot do what is needed.
    """
    variant = resolve_variant(attention)
    if is_pattern(variant):
        mask, bias = variant.restrict(mask, bias)
    used = used_options(query, key, key, mask=mask, bias=bias, layout=layout, dropout_p=dropout_p)
    return _choose(variant, backend, used, query.device, need_weights)[1]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: AttentionMask = _NO_MASK,
    bias: AttentionBias | None = None,
    layout: PackedLayout | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    need_weights: bool = False,
    attention: VariantSpec = _FULL,
    backend: str = "auto",
) -> AttentionResult:
    """Attention of `query` over `key` and `value`, by the variant and backend asked for.

    Args:
        query: (B, H, T, K), or (N, H, K) with a layout.
        key: (B, G, S, K), or (N, G, K); G divides H, each key head serves H / G query heads.
        value: as `key`.
        mask: what may attend to what.
        bias: what is added to the scores.
        layout: where the sequences of a packed batch lie.
        scale: factor of the scores; None = K ** -0.5.
        dropout_p: probability with which a probability is dropped.
        need_weights: return the probabilities too, whatever the backend.
        attention: the variant.
        backend: the way to compute a pattern; "auto" chooses, see `explain_backend`.

    Raises:
        ValueError: where shapes do not fit. TypeError: where dtypes do not.
        NotSupportedError: where an option is not offered.
    """
    variant = resolve_variant(attention)
    if is_pattern(variant):
        mask, bias = variant.restrict(mask, bias)
    check_shapes(query, key, value, mask, layout)
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p must be in [0, 1), got {dropout_p}")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    used = used_options(query, key, value, mask=mask, bias=bias, layout=layout, dropout_p=dropout_p)
    implementation, _ = _choose(variant, backend, used, query.device, need_weights)
    result = implementation(
        query,
        key,
        value,
        mask=mask,
        bias=bias,
        layout=layout,
        scale=scale,
        dropout_p=dropout_p,
        need_weights=need_weights,
    )
    if need_weights and result.weights is None and is_pattern(variant):
        from minitrans.attention.probabilities import attention_probabilities

        weights = attention_probabilities(
            query, key, mask=mask, bias=bias, layout=layout, scale=scale, logsumexp=result.logsumexp
        )
        result = replace(result, weights=weights)
    return result


def _choose(
    variant: Variant, backend: str, used: set[str], device: torch.device, need_weights: bool
) -> tuple[Attention, BackendChoice]:
    """What computes a call that uses these options, and why; NotSupportedError where it cannot."""
    check_backend(backend)
    if not is_pattern(variant):
        if backend != "auto":
            raise NotSupportedError(
                f"attention variant {variant.name!r} is a mechanism of its own: "
                f"it has no backend {backend!r}; use 'auto'"
            )
        used = used | {"weights"} if need_weights else used
        require(variant.name, supported_options(variant, device), used, {_FULL.name: OPTIONS})
        return variant, BackendChoice(variant.name, "the variant is a mechanism: it computes its own attention")
    if backend != "auto":
        choice = BackendChoice(backend, "asked for by name")
    elif need_weights:
        choice = BackendChoice("eager", "the probabilities were asked for, and eager computes them anyway")
    else:
        choice = BackendChoice(
            "sdpa", f"torch's fused attention is the fastest exact one here for {device.type} tensors"
        )
    implementation = load_backend(choice.name)
    supports = supported_options(implementation, device)
    if not used <= supports:
        require(choice.name, supports, used, {name: supported_options(load_backend(name), device) for name in BACKENDS})
    return implementation, choice


@cache
def load_backend(name: str) -> Attention:
    """The backend of this row of `BACKENDS`, imported when first wanted."""
    return cast("Attention", _load(BACKENDS[name])())


def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)
