"""Gemma-2 (Gemma Team 2024): LLaMA's names, with a norm before and after each sub-layer."""

from __future__ import annotations

from weights_convert.families.family import Family
from weights_convert.families.llama import HEADS, table

_NORMS = {
    "input_layernorm": "attention_LayerNorm",
    "post_attention_layernorm": "attention.output.LayerNorm",
    "pre_feedforward_layernorm": "feed_forward_LayerNorm",
    "post_feedforward_layernorm": "feed_forward.down.LayerNorm",
}
_PROJECTIONS = {
    "self_attn.o_proj": "attention.output.projection",
    "mlp.down_proj": "feed_forward.down.projection",
}

FAMILY = Family(
    prefix="model",
    table=lambda config: table(config, _NORMS, _PROJECTIONS),
    fresh=HEADS,
)
