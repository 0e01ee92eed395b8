"""The literal tables of variants and backends: adding either is one file and one row."""

from __future__ import annotations

from importlib import import_module
from operator import attrgetter
from typing import Any

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


def check_backend(backend: str) -> None:
    """Raises ValueError if `backend` is neither "auto" nor a row of `BACKENDS`."""
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"unknown attention backend {backend!r}; known: auto, {', '.join(BACKENDS)}")


def load(path: str) -> Any:
    """What "module:name" says. Raises ImportError or AttributeError where there is no such thing."""
    module, _, attribute = path.partition(":")
    return attrgetter(attribute)(import_module(module))
