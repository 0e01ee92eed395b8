"""minitrans: the Transformer you can read, trust and race.

The letters used for the sizes of tensors, everywhere:

    B batch · T query length · S key length · N tokens of a packed batch · H heads · G key/value heads
    D model width · K head width · F feed-forward width · V vocabulary · L layers

Every public name is loaded when it is first used, so that `import minitrans` costs little more than `import torch`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from minitrans.families import FAMILIES, HEADS, auto_name, class_names

__version__ = "0.1.0"

# public name -> the module that has it
_EXPORTS = {
    **dict.fromkeys(("NotSupportedError", "CheckpointError"), "minitrans.errors"),
    **dict.fromkeys(
        (
            "ALiBi", "AttentionBias", "AttentionMask", "AttentionResult", "AttentionRules", "BlockLayout", "CallSizes",
            "Context", "DenseBias", "LayerSizes", "MaskRule", "PackedLayout", "RelativeBuckets", "RelativePositions",
            "SummedBias", "Variant", "attend", "explain_backend",
        ),
        "minitrans.attention",
    ),
    **dict.fromkeys(("AutoConfig", *map(auto_name, HEADS)), "minitrans.models.auto"),
    **{name: f"minitrans.models.{module}" for name, module in class_names().items()},
    **dict.fromkeys(("Transformer", "TransformerConfig"), "minitrans.models.transformer"),
    **dict.fromkeys(("AttentionConversion", "convert_attention"), "minitrans.models.attention_swap"),
    "Encoder": "minitrans.embedding",
    "GenerationConfig": "minitrans.generation.config",
    **dict.fromkeys(("TextStreamer", "TextIteratorStreamer"), "minitrans.generation.streaming"),
    "fuse": "minitrans.fused",
    "pack": "minitrans.packing",
    "pipeline": "minitrans.pipelines.auto",
    "AutoTokenizer": "minitrans.tokenizers.auto",
    "BatchEncoding": "minitrans.tokenizers.batch_encoding",
    "Tokenizer": "minitrans.tokenizers.tokenizer",
    **{
        f"{name}{suffix}": "minitrans.tokenizers.auto"
        for name in (*(row.tokenizer for row in FAMILIES.values()), "MBart50Tokenizer", "NllbTokenizer")
        for suffix in ("", "Fast")
    },
    "PreTrainedTokenizerFast": "minitrans.tokenizers.auto",
    **dict.fromkeys(
        ("AdamW", "get_constant_schedule_with_warmup", "get_linear_schedule_with_warmup", "get_noam_schedule"),
        "minitrans.training.optimization",
    ),
}  # fmt: skip

__all__ = ["__version__", *_EXPORTS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'minitrans' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
