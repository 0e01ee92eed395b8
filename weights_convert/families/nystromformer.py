"""Nyströmformer (Xiong et al. 2021): BERT's names and head, a convolution in each attention, other classifiers."""

from __future__ import annotations

from typing import Any

from weights_convert.families import bert
from weights_convert.families.family import OTHER_HEAD, Family, drop_linear, linear
from weights_convert.rules import Rename, TableRow

_ATTENTION = "encoder.layer.{layer}.attention"
_HEADS = ("pre_classifier", "classifier.dense", "classifier.out_proj")


def _table(config: Any) -> tuple[TableRow, ...]:
    return (
        *bert.FAMILY.table(config),
        Rename(f"{_ATTENTION}.self.conv.weight", f"{_ATTENTION}.own.0.conv.weight"),
        *(row for name in _HEADS for row in linear(name, name)),
        *(row for name in _HEADS for row in drop_linear(name, OTHER_HEAD)),
    )


FAMILY = Family(
    prefix="nystromformer",
    table=_table,
    fresh=frozenset({"lm_head", "pre_classifier", "classifier", "qa_outputs"}),
)
