"""The literal tables of variants and backends: adding either is one file and one row."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from minitrans.attention.rules import Backend

# which attention a model has
VARIANTS = {
    "sliding_window": "minitrans.attention.sliding_window:SlidingWindow",
    "dilated": "minitrans.attention.dilated:Dilated",
    "rotary": "minitrans.attention.rotary:Rotary",
    "qk_norm": "minitrans.attention.qk_norm:QueryKeyNorm",
    "softcap": "minitrans.attention.softcap:Softcap",
    "sink": "minitrans.attention.sink:Sink",
    "talking_heads": "minitrans.attention.talking_heads:TalkingHeads",
    "sigmoid": "minitrans.attention.sigmoid:Sigmoid",
}
# ways to compute softmax attention
BACKENDS = {
    "eager": "minitrans.attention.eager:EagerAttention",
    "sdpa": "minitrans.attention.sdpa:SdpaAttention",
    "flex": "minitrans.attention.flex:FlexAttention",
    "online_softmax": "minitrans.attention.online_softmax:OnlineSoftmaxAttention",
    "triton": "minitrans.attention.triton:TritonAttention",
}
LOADED: dict[str, Backend] = {}


def check_backend(backend: str) -> None:
    """Raises ValueError if `backend` is neither "auto" nor a row of `BACKENDS`."""
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"unknown attention backend {backend!r}; known: auto, {', '.join(BACKENDS)}")


def load_backend(name: str) -> Backend:
    """The backend of this row of `BACKENDS`, imported when first wanted; a compiler can follow this."""
    if name not in LOADED:
        check_backend(name)
        _import_backend(name)
    return LOADED[name]


def _import_backend(name: str) -> None:
    """A compiler runs this while it traces, and puts nothing of it into the graph."""
    LOADED[name] = cast("Backend", load(BACKENDS[name])())


# all that torch.compiler.assume_constant_result does, which as a decorator here would import the compiler
_import_backend._dynamo_marked_constant = True  # type: ignore[attr-defined]


def load(path: str) -> Any:
    """What "module:name" says. Raises ImportError or AttributeError where there is no such thing."""
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)
