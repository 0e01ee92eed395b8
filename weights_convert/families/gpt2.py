"""GPT-2 (Radford et al. 2019): names of the reference -> ours, body and heads. Its matrices are stored (in, out) (G1)."""

from __future__ import annotations

from typing import Any

from weights_convert.families.family import OTHER_HEAD, Family, drop_linear, linear, tied_decoder
from weights_convert.rules import Drop, Rename, Split, TableRow, Transpose

_THEIRS, _OURS = "h.{layer}", "encoder.layer.{layer}"
_MASK = "a buffer that holds the causal mask, or its value; it is computed (G3)"


def _matrix(source: str, target: str) -> tuple[TableRow, ...]:
    return (
        Transpose(f"{_THEIRS}.{source}.weight", f"{_OURS}.{target}.weight"),
        Rename(f"{_THEIRS}.{source}.bias", f"{_OURS}.{target}.bias"),
    )


def _fused(source: str, *targets: str) -> tuple[TableRow, ...]:
    """G1: several projections side by side."""
    weights, biases = (tuple(f"{_OURS}.{target}.{kind}" for target in targets) for kind in ("weight", "bias"))
    return (
        Split(f"{_THEIRS}.{source}.weight", weights, dim=1, transpose=True),
        Split(f"{_THEIRS}.{source}.bias", biases),
    )


def _table(config: Any) -> tuple[TableRow, ...]:
    return (
        Rename("wte.weight", "embeddings.word_embeddings.weight"),
        Rename("wpe.weight", "embeddings.position_embeddings.weight"),
        *_fused("attn.c_attn", "attention.query", "attention.key", "attention.value"),
        *_matrix("attn.c_proj", "attention.output"),
        *_matrix("crossattention.q_attn", "cross_attention.query"),
        *_fused("crossattention.c_attn", "cross_attention.key", "cross_attention.value"),
        *_matrix("crossattention.c_proj", "cross_attention.output"),
        *_matrix("mlp.c_fc", "feed_forward.up"),
        *_matrix("mlp.c_proj", "feed_forward.down"),
        *linear(f"{_THEIRS}.ln_1", f"{_OURS}.attention_LayerNorm"),
        *linear(f"{_THEIRS}.ln_cross_attn", f"{_OURS}.cross_attention_LayerNorm"),
        *linear(f"{_THEIRS}.ln_2", f"{_OURS}.feed_forward_LayerNorm"),
        *linear("ln_f", "encoder.LayerNorm"),
        *(
            Drop(f"{_THEIRS}.{part}.{buffer}", _MASK)
            for part in ("attn", "crossattention")
            for buffer in ("bias", "masked_bias")
        ),
        Rename("lm_head.weight", "lm_head.weight"),
        *tied_decoder(config, "lm_head.weight", "wte.weight"),
        *linear("multiple_choice_head.summary", "multiple_choice_head.summary"),
        Rename("score.weight", "label_scores.weight"),
        *linear("classifier", "classifier"),
        *linear("qa_outputs", "qa_outputs"),
        Drop("lm_head.weight", OTHER_HEAD),
        Drop("score.weight", OTHER_HEAD),
        *drop_linear("multiple_choice_head.summary", OTHER_HEAD),
        *drop_linear("classifier", OTHER_HEAD),
        *drop_linear("qa_outputs", OTHER_HEAD),
    )


FAMILY = Family(
    prefix="transformer",
    table=_table,
    fresh=frozenset({"lm_head", "multiple_choice_head", "label_scores", "classifier", "qa_outputs", "cross_attention"}),
)
