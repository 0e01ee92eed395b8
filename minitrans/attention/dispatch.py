"""`attend`, the one door through which models reach attention: it checks the call, chooses what computes it, and asks it."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from minitrans.attention.bias import AttentionBias
from minitrans.attention.choice import BackendChoice, choose
from minitrans.attention.contract import (
    OPTIONS,
    Attention,
    AttentionResult,
    check_shapes,
    remark_on,
    require,
    supported_options,
    used_options,
)
from minitrans.attention.full import FullAttention
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.attention.probabilities import attention_probabilities
from minitrans.attention.registry import (
    BACKENDS,
    Variant,
    VariantSpec,
    check_backend,
    is_pattern,
    load_backend,
    resolve_variant,
)
from minitrans.errors import NotSupportedError

_FULL = FullAttention()
_NO_MASK = AttentionMask()


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
    implementation, choice = _choose(variant, backend, used, query, need_weights)
    remark = remark_on(implementation, query.device)
    return choice if remark is None else replace(choice, reason=f"{choice.reason}; it runs {remark}")


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
    implementation, _ = _choose(variant, backend, used, query, need_weights)
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
        weights = attention_probabilities(
            query, key, mask=mask, bias=bias, layout=layout, scale=scale, logsumexp=result.logsumexp
        )
        result = replace(result, weights=weights)
    return result


def _choose(
    variant: Variant, backend: str, used: set[str], query: Tensor, need_weights: bool
) -> tuple[Attention, BackendChoice]:
    """What computes a call that uses these options, and why; NotSupportedError where it cannot."""
    check_backend(backend)
    device = query.device
    if not is_pattern(variant):
        if backend != "auto":
            raise NotSupportedError(
                f"attention variant {variant.name!r} is a mechanism of its own: "
                f"it has no backend {backend!r}; use 'auto'"
            )
        used = used | {"weights"} if need_weights else used
        require(variant.name, supported_options(variant, device), used, {_FULL.name: OPTIONS})
        return variant, BackendChoice(variant.name, "the variant is a mechanism: it computes its own attention")
    if backend == "auto":
        choice = choose(used, query, need_weights)
    else:
        choice = BackendChoice(backend, "asked for by name")
    implementation = load_backend(choice.name)
    supports = supported_options(implementation, device)
    if not used <= supports:
        require(choice.name, supports, used, {name: supported_options(load_backend(name), device) for name in BACKENDS})
    return implementation, choice
