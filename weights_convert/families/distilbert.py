"""DistilBERT (Sanh et al. 2019): names of the reference -> ours, body and heads."""

from __future__ import annotations

from typing import Any

from weights_convert.families.family import (
    OTHER_HEAD,
    POSITION_BUFFER,
    Family,
    drop_linear,
    linear,
    tables,
    tied_decoder,
)
from weights_convert.rules import TableRow

_THEIRS, _OURS = "transformer.layer.{layer}", "encoder.layer.{layer}"
_HEADS = ("vocab_transform", "vocab_layer_norm", "vocab_projector", "pre_classifier", "classifier", "qa_outputs")


def _table(config: Any) -> tuple[TableRow, ...]:
    return (
        *tables("word", "position"),  # D1: no token types
        *linear("embeddings.LayerNorm", "embeddings.LayerNorm"),
        *linear(f"{_THEIRS}.attention.q_lin", f"{_OURS}.attention.query"),
        *linear(f"{_THEIRS}.attention.k_lin", f"{_OURS}.attention.key"),
        *linear(f"{_THEIRS}.attention.v_lin", f"{_OURS}.attention.value"),
        *linear(f"{_THEIRS}.attention.out_lin", f"{_OURS}.attention.output"),
        *linear(f"{_THEIRS}.sa_layer_norm", f"{_OURS}.attention_LayerNorm"),
        *linear(f"{_THEIRS}.ffn.lin1", f"{_OURS}.feed_forward.up"),
        *linear(f"{_THEIRS}.ffn.lin2", f"{_OURS}.feed_forward.down"),
        *linear(f"{_THEIRS}.output_layer_norm", f"{_OURS}.feed_forward_LayerNorm"),
        POSITION_BUFFER,
        *linear("vocab_transform", "lm_head.dense"),
        *linear("vocab_layer_norm", "lm_head.LayerNorm"),
        *linear("vocab_projector", "lm_head.decoder"),  # D1: its bias is its own
        *tied_decoder(config, "vocab_projector.weight"),
        *linear("pre_classifier", "pre_classifier"),
        *linear("classifier", "classifier"),
        *linear("qa_outputs", "qa_outputs"),
        *(row for head in _HEADS for row in drop_linear(head, OTHER_HEAD)),
    )


FAMILY = Family(
    prefix="distilbert",
    table=_table,
    fresh=frozenset({"lm_head", "pre_classifier", "classifier", "qa_outputs"}),
)
