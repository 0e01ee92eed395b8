"""BigBird (Zaheer et al. 2020): BERT's names, a pooler that is bare (BB3), other classifiers."""

from __future__ import annotations

from typing import Any

from weights_convert.families import bert
from weights_convert.families.family import NO_POOLER, OTHER_HEAD, Family, drop_linear, linear
from weights_convert.rules import TableRow

_HEADS = {
    "classifier.dense": "classifier.dense",
    "classifier.out_proj": "classifier.out_proj",
    "qa_classifier.intermediate.dense": "qa_classifier.feed_forward.up",
    "qa_classifier.output.dense": "qa_classifier.feed_forward.down",
    "qa_classifier.output.LayerNorm": "qa_classifier.LayerNorm",
    "qa_classifier.qa_outputs": "qa_classifier.qa_outputs",
}


def _table(config: Any) -> tuple[TableRow, ...]:
    pooler = linear("pooler.dense", "pooler.dense")
    return (
        *linear("pooler", "pooler.dense"),
        *(row for row in bert.FAMILY.table(config) if row not in pooler),
        *(row for theirs, ours in _HEADS.items() for row in linear(theirs, ours)),
        *drop_linear("pooler", NO_POOLER),
        *(row for theirs in _HEADS for row in drop_linear(theirs, OTHER_HEAD)),
    )


FAMILY = Family(
    prefix="bert",
    table=_table,
    fresh=frozenset({"pooler", "lm_head", "seq_relationship", "classifier", "qa_classifier"}),
)
