"""`attend`, the door to softmax attention: it checks the call, picks the backend, and asks it.

To step from here into the equation with a debugger, pass `backend="eager"`: that is `eager.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from torch import Tensor

from minitrans.attention.backend_selection import BackendChoice, select_backend
from minitrans.attention.checks import refuse_call
from minitrans.attention.mask import NO_MASK
from minitrans.attention.probabilities import attention_probabilities
from minitrans.attention.registry import BACKENDS, check_backend, load
from minitrans.attention.rules import AttentionResult, AttentionRules, Backend
from minitrans.errors import NotSupportedError

_RULES = AttentionRules()
_LOADED: dict[str, Backend] = {}


def attend(
    query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules = _RULES, *, backend: str = "auto"
) -> AttentionResult:
    """Softmax attention of `query` over `key` and `value`.

    Args:
        query: (B, H, T, K), or (N, H, K) with a layout.
        key: (B, G, S, K), or (N, G, K); G divides H, each key head serves H / G query heads.
        value: as `key`.
        rules: mask, bias, layout, scale, softcap, dropout and what to return besides the output.
        backend: the way to compute it; "auto" chooses, see `explain_backend`.

    Raises:
        ValueError: where shapes do not fit. TypeError: where dtypes do not.
        NotSupportedError: where the backend cannot do what the rules ask.
    """
    if not _fits(query, key, value, rules):
        refuse_call(query, key, value, rules)
    if rules.mask is not NO_MASK:
        rules.mask.check(query.shape, key.shape)
    return compute_attention(query, key, value, rules, backend)


def compute_attention(
    query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules, backend: str = "auto"
) -> AttentionResult:
    """`attend` without its checks, for callers whose input has come through a door already."""
    name = select_backend(rules, query, key).name if backend == "auto" else backend
    _import_backend(name)
    compute = _LOADED[name]
    if compute.supports(rules, query) is not None:
        _refuse(name, rules, query)
    result = compute(query, key, value, rules)
    if rules.need_weights and result.weights is None:
        return replace(result, weights=attention_probabilities(query, key, rules, result.logsumexp))
    return result


def explain_backend(
    query: Tensor, key: Tensor, rules: AttentionRules = _RULES, *, backend: str = "auto"
) -> BackendChoice:
    """The backend that `attend` would run for these arguments, and the reason.

    Raises:
        ValueError: for an unknown backend. NotSupportedError: where the backend asked for cannot do what is needed.
    """
    check_backend(backend)
    choice = select_backend(rules, query, key)
    if backend != "auto":
        choice = BackendChoice(backend, "asked for by name")
    if load_backend(choice.name).supports(rules, query) is not None:
        _refuse(choice.name, rules, query)
    remark = load_backend(choice.name).remark(query)
    return choice if remark is None else replace(choice, reason=f"{choice.reason}; it runs {remark}")


def _fits(query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> bool:
    """Whether a call is plainly in order; what is not, `refuse_call` looks at once more, and explains."""
    q, k = query.shape, key.shape
    return (
        len(q) == (4 if rules.layout is None else 3)
        and len(k) == len(q)
        and k == value.shape
        and q[0] == k[0]
        and q[-1] == k[-1]
        and k[1] > 0
        and q[1] % k[1] == 0
        and query.dtype == key.dtype == value.dtype
        and query.device == key.device == value.device
        and 0.0 <= rules.dropout_p < 1.0
        and (rules.layout is None or rules.mask.fits_packed)
    )


def _refuse(name: str, rules: AttentionRules, query: Tensor) -> None:
    lacking = load_backend(name).supports(rules, query)
    able = [other for other in sorted(BACKENDS) if load_backend(other).supports(rules, query) is None]
    raise NotSupportedError(f"attention {name!r} does not support {lacking}; supported by: {', '.join(able) or 'none'}")


def load_backend(name: str) -> Backend:
    """The backend of this row of `registry.BACKENDS`, imported when first wanted."""
    _import_backend(name)
    return _LOADED[name]


def _import_backend(name: str) -> None:
    """A compiler runs this while it traces, before it looks at the table, and puts nothing of it into the graph."""
    if name not in _LOADED:
        check_backend(name)
        _LOADED[name] = cast("Backend", load(BACKENDS[name])())


# all that torch.compiler.assume_constant_result does, which as a decorator here would import the compiler
_import_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]
