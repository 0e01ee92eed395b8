"""Triton kernels for Transformers, each with a plain PyTorch path for where Triton cannot run.

Importing this package imports no Triton: a kernel does so when it is first launched.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# not on first use like the rest: `attention` is also the package below, which would take the name when it is imported
from minitrans_kernels.attention.functions import (
    attention,
    attention_varlen,
    attention_weights,
    attention_weights_varlen,
)

# public name -> the module that has it
_EXPORTS = {
    "available": "minitrans_kernels.availability",
    "BlockLayout": "minitrans_kernels.attention.arguments",
    "RelativeBias": "minitrans_kernels.attention.distance_bias",
    "use_tiles": "minitrans_kernels.attention.configs",
    "dropout_mask": "minitrans_kernels.dropout",
    **dict.fromkeys(
        ("add_dropout_layer_norm", "bias_gelu", "embedding_layer_norm", "masked_lm_loss", "rms_norm"),
        "minitrans_kernels.layers",
    ),
}  # fmt: skip

__all__ = ["attention", "attention_varlen", "attention_weights", "attention_weights_varlen", *_EXPORTS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'minitrans_kernels' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
