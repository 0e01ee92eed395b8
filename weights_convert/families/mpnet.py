"""MPNet (Song et al. 2020): names of the reference -> ours; the heads have RoBERTa's names."""

from __future__ import annotations

from typing import Any

from weights_convert.families.family import NO_POOLER, POSITION_BUFFER, Family, drop_linear, linear, tables
from weights_convert.families.roberta import FRESH, heads
from weights_convert.rules import Rename, TableRow

_LAYER = "encoder.layer.{layer}"


def _table(config: Any) -> tuple[TableRow, ...]:
    return (
        *tables("word", "position"),  # P1: no token types
        *linear("embeddings.LayerNorm", "embeddings.LayerNorm"),
        *linear(f"{_LAYER}.attention.attn.q", f"{_LAYER}.attention.query"),
        *linear(f"{_LAYER}.attention.attn.k", f"{_LAYER}.attention.key"),
        *linear(f"{_LAYER}.attention.attn.v", f"{_LAYER}.attention.value"),
        *linear(f"{_LAYER}.attention.attn.o", f"{_LAYER}.attention.output"),
        *linear(f"{_LAYER}.attention.LayerNorm", f"{_LAYER}.attention_LayerNorm"),
        *linear(f"{_LAYER}.intermediate.dense", f"{_LAYER}.feed_forward.up"),
        *linear(f"{_LAYER}.output.dense", f"{_LAYER}.feed_forward.down"),
        *linear(f"{_LAYER}.output.LayerNorm", f"{_LAYER}.feed_forward_LayerNorm"),
        Rename("encoder.relative_attention_bias.weight", "encoder.relative_attention_bias.weight"),
        *linear("pooler.dense", "pooler.dense"),
        *drop_linear("pooler.dense", NO_POOLER),
        POSITION_BUFFER,
        *heads(config),
    )


FAMILY = Family(
    prefix="mpnet",
    table=_table,
    fresh=FRESH,
)
