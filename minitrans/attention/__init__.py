"""Attention: the rules of a call, one oracle (`eager.py`), one file per backend and per variant."""

from minitrans.attention.bias import (
    ALiBi,
    AttentionBias,
    DenseBias,
    RelativeBuckets,
    RelativePositions,
    SummedBias,
)
from minitrans.attention.context import Context
from minitrans.attention.dispatch import attend, explain_backend
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask, BlockLayout, MaskRule
from minitrans.attention.rules import AttentionResult, AttentionRules, Backend
from minitrans.attention.variant import CallSizes, LayerSizes, Variant

__all__ = [
    "ALiBi",
    "AttentionBias",
    "AttentionMask",
    "AttentionResult",
    "AttentionRules",
    "Backend",
    "BlockLayout",
    "CallSizes",
    "Context",
    "DenseBias",
    "LayerSizes",
    "MaskRule",
    "PackedLayout",
    "RelativeBuckets",
    "RelativePositions",
    "SummedBias",
    "Variant",
    "attend",
    "explain_backend",
]
