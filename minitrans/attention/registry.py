"""The literal tables of attention variants and backends, and how a name becomes one of them.

A *variant* says which attention a model has. It is a pattern (it has `restrict`, and runs on every backend) or a
mechanism (it is itself an `Attention`). A *backend* is one way to compute exact softmax attention. Adding either is one
file and one row.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from minitrans.attention.bias import AttentionBias
from minitrans.attention.contract import Attention
from minitrans.attention.mask import AttentionMask

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
    "triton": "minitrans.attention.triton:TritonAttention",
}
_LOADED: dict[str, Attention] = {}


class Pattern(Protocol):
    """A variant that only narrows the mask or adds to the bias."""

    name: str

    def restrict(self, mask: AttentionMask, bias: AttentionBias | None) -> tuple[AttentionMask, AttentionBias | None]:
        """Mask and bias of the variant, from those of the model."""
        ...


Variant = Pattern | Attention
VariantSpec = str | Mapping[str, Any] | Variant


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


def load_backend(name: str) -> Attention:
    """The backend of this row of `BACKENDS`, imported when first wanted; a compiler can follow this."""
    _import_backend(name)
    return _LOADED[name]


def _import_backend(name: str) -> None:
    """A compiler runs this while it traces, and puts nothing of it into the graph."""
    if name not in _LOADED:
        _LOADED[name] = cast("Attention", _load(BACKENDS[name])())


# all that torch.compiler.assume_constant_result does, which as a decorator here would import the compiler
_import_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)
