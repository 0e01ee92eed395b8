"""RoBERTa-PreLayerNorm: RoBERTa's names, but for the norms (R6)."""

from __future__ import annotations

from typing import Any

from weights_convert.families.family import Family, encoder_body, linear
from weights_convert.families.roberta import FRESH, heads
from weights_convert.rules import TableRow


def _table(config: Any) -> tuple[TableRow, ...]:
    return (
        *encoder_body(attention_norm="LayerNorm", feed_forward_norm="intermediate.LayerNorm"),
        *linear("LayerNorm", "encoder.LayerNorm"),
        *heads(config),
    )


FAMILY = Family(
    prefix="roberta_prelayernorm",
    table=_table,
    fresh=FRESH,
)
