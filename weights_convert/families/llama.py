"""LLaMA (Touvron et al. 2023) and those that follow it: names of the reference -> ours, body and heads."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from weights_convert.families.family import OTHER_HEAD, Family, drop_linear, linear, tied_decoder
from weights_convert.rules import Drop, Rename, TableRow

_THEIRS, _OURS = "layers.{layer}", "encoder.layer.{layer}"
_PROJECTIONS = {
    "self_attn.q_proj": "attention.query", "self_attn.k_proj": "attention.key", "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.output", "mlp.gate_proj": "feed_forward.gate", "mlp.up_proj": "feed_forward.up",
    "mlp.down_proj": "feed_forward.down",
}  # fmt: skip
_NORMS = {"input_layernorm": "attention_LayerNorm", "post_attention_layernorm": "feed_forward_LayerNorm"}
_BUFFER = "a buffer of frequencies; they are computed"


def table(
    config: Any, norms: Mapping[str, str], others: Mapping[str, str] = MappingProxyType({})
) -> tuple[TableRow, ...]:
    """The rows of a family with these norms in a block, and projections that have other names here than LLaMA's."""
    projections = {**_PROJECTIONS, **others}
    return (
        Rename("embed_tokens.weight", "embeddings.word_embeddings.weight"),
        *(row for theirs, ours in projections.items() for row in linear(f"{_THEIRS}.{theirs}", f"{_OURS}.{ours}")),
        *(Rename(f"{_THEIRS}.{theirs}.weight", f"{_OURS}.{ours}.weight") for theirs, ours in norms.items()),
        Rename(f"{_THEIRS}.self_attn.q_norm.weight", f"{_OURS}.attention.own.0.query_weight"),
        Rename(f"{_THEIRS}.self_attn.k_norm.weight", f"{_OURS}.attention.own.0.key_weight"),
        Rename("norm.weight", "encoder.LayerNorm.weight"),
        Drop(f"{_THEIRS}.self_attn.rotary_emb.inv_freq", _BUFFER),
        Drop("rotary_emb.inv_freq", _BUFFER),
        Rename("lm_head.weight", "lm_head.weight"),
        *tied_decoder(config, "lm_head.weight", "embed_tokens.weight"),
        *linear("score", "label_scores"),
        *linear("qa_outputs", "qa_outputs"),
        Drop("lm_head.weight", OTHER_HEAD),
        *drop_linear("score", OTHER_HEAD),
        *drop_linear("qa_outputs", OTHER_HEAD),
    )


HEADS = frozenset({"lm_head", "label_scores", "qa_outputs"})

FAMILY = Family(
    prefix="model",
    others=("transformer",),  # around an answerer of questions
    table=lambda config: table(config, _NORMS),
    fresh=HEADS,
)
