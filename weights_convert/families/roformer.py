"""RoFormer (Su et al. 2021): BERT's names without positions, with a table of turns; ELECTRA's projection and classifier."""

from __future__ import annotations

from typing import Any

from weights_convert.families.bert import heads
from weights_convert.families.family import OTHER_HEAD, Family, drop_linear, encoder_body, linear
from weights_convert.rules import Rename, TableRow

_HEADS = (
    ("classifier.dense", "classifier.dense"),
    ("classifier.out_proj", "classifier.out_proj"),
    ("sequence_summary.summary", "summary"),
)


def _table(config: Any) -> tuple[TableRow, ...]:
    return (
        *encoder_body(),
        *linear("embeddings_project", "embeddings.projection"),
        Rename("encoder.embed_positions.weight", "encoder.turns.weight"),  # RF1
        *(row for theirs, ours in _HEADS for row in linear(theirs, ours)),
        *(row for theirs, _ in _HEADS for row in drop_linear(theirs, OTHER_HEAD)),
        *heads(config),
    )


FAMILY = Family(
    prefix="roformer",
    table=_table,
    fresh=frozenset({"lm_head", "summary", "classifier", "qa_outputs"}),
)
