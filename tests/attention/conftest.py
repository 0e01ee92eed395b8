"""What the tests of single variants share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from minitrans.attention.specs import build_variants
from minitrans.attention.variant import LayerSizes, Variant
from minitrans.layers.multi_head_attention import MultiHeadAttention


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def make() -> Callable[..., Any]:
    """A variant in float64, its parameters moved from where they begin."""

    def made(spec: Any, heads: int = 4, kv_heads: int | None = None, width: int = 8) -> Variant:
        sizes = LayerSizes(heads * width, heads, heads if kv_heads is None else kv_heads, width, longest=32)
        (variant,) = build_variants(spec, sizes)
        variant.double()
        for parameter in variant.parameters():
            parameter.data += 0.5 * torch.randn_like(parameter)
        return variant

    return made


@pytest.fixture
def block() -> Callable[..., MultiHeadAttention]:
    """Multi-head attention in float64 with variants in it, its parameters moved likewise."""

    def made(spec: Any, backend: str = "auto", **sizes: Any) -> MultiHeadAttention:
        module = MultiHeadAttention(32, 4, **sizes).double()
        module.set_attention(spec, backend)
        for variant in module.variants:
            for parameter in variant.parameters():
                parameter.data += 0.5 * torch.randn_like(parameter)
        return module

    return made


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    """Random numbers in float64 that require gradients."""
    return lambda *shape: torch.randn(shape, dtype=torch.float64, requires_grad=True)
