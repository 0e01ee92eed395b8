"""The meaning of bias_gelu, in the dtype it is given (Hendrycks & Gimpel 2016, "Gaussian Error Linear Units")."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def bias_gelu(x: Tensor, bias: Tensor, approximate: str) -> Tensor:
    """u Φ(u) with u = x + bias, x (..., F), bias (F); "tanh" is the paper's approximation of Φ."""
    u = x + bias
    if approximate == "tanh":
        return 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
    return 0.5 * u * (1 + torch.erf(u / math.sqrt(2)))
