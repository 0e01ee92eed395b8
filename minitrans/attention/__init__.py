"""Attention: one contract (`contract.py`), one oracle (`eager.py`), one file per backend and per variant."""

from minitrans.attention.bias import ALiBi, AttentionBias, DenseBias, RelativeBuckets, RelativePositions
from minitrans.attention.contract import Attention, AttentionResult
from minitrans.attention.dispatch import attend, explain_backend
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask, BlockLayout

__all__ = [
    "ALiBi",
    "Attention",
    "AttentionBias",
    "AttentionMask",
    "AttentionResult",
    "BlockLayout",
    "DenseBias",
    "PackedLayout",
    "RelativeBuckets",
    "RelativePositions",
    "attend",
    "explain_backend",
]
