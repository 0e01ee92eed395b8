"""Longformer (Beltagy et al. 2020): RoBERTa's names, and the projections of global tokens (L3)."""

from __future__ import annotations

from typing import Any

from weights_convert.families.family import Family, encoder_body, linear
from weights_convert.families.roberta import FRESH, heads
from weights_convert.rules import TableRow

_ATTENTION = "encoder.layer.{layer}.attention"


def _table(config: Any) -> tuple[TableRow, ...]:
    globals_ = (f"{kind}_global" for kind in ("query", "key", "value"))
    return (
        *encoder_body(),
        *(row for name in globals_ for row in linear(f"{_ATTENTION}.self.{name}", f"{_ATTENTION}.own.0.{name}")),
        *heads(config),
    )


FAMILY = Family(
    prefix="longformer",
    table=_table,
    fresh=FRESH,
)
