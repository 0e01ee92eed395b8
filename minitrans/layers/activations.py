"""Activation functions by the names that checkpoints use for them (B1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]


# x · Φ(x), the exact form (Hendrycks & Gimpel 2016, "Gaussian Error Linear Units")
gelu_erf: Activation = F.gelu


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of the same paper, fused."""
    return F.gelu(x, approximate="tanh")


def gelu_new(x: Tensor) -> Tensor:
    """The tanh approximation as GPT-2 and the original BERT code wrote it; not bit-equal to `gelu_tanh`."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def gelu_fast(x: Tensor) -> Tensor:
    """The tanh approximation, its constant rounded to ten digits: in float64 it differs from `gelu_new` at 1e-12."""
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def quick_gelu(x: Tensor) -> Tensor:
    """x · σ(1.702 x), the sigmoid approximation of the same paper."""
    return x * torch.sigmoid(1.702 * x)


def gelu_10(x: Tensor) -> Tensor:
    """The exact form, clipped to [-10, 10] for quantisation."""
    return gelu_erf(x).clamp(-10.0, 10.0)


def relu_squared(x: Tensor) -> Tensor:
    """relu(x)² (So et al. 2021, "Primer")."""
    return F.relu(x).square()


def linear(x: Tensor) -> Tensor:
    """x itself."""
    return x


ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu_erf,
    "gelu_python": gelu_erf,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_python_tanh": gelu_new,
    "gelu_accurate": gelu_new,
    "gelu_new": gelu_new,
    "gelu_fast": gelu_fast,
    "gelu_10": gelu_10,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "relu2": relu_squared,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "swish": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": linear,
}


def activation(name: str) -> Activation:
    """The function of this name. Raises ValueError, listing the known names, for any other."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(sorted(ACTIVATIONS))}")
    return ACTIVATIONS[name]
