"""ELECTRA (Clark et al. 2020), discriminator and generator: BERT's body with a projection, other heads."""

from __future__ import annotations

from typing import Any

from weights_convert.families.family import (
    OTHER_HEAD,
    Family,
    drop_linear,
    encoder_body,
    linear,
    tied_decoder,
)
from weights_convert.rules import TableRow

_HEADS = (
    ("generator_predictions.dense", "lm_head.dense"),
    ("generator_predictions.LayerNorm", "lm_head.LayerNorm"),
    ("generator_lm_head", "lm_head.decoder"),  # E1: its bias is its own
    ("discriminator_predictions.dense", "discriminator_predictions.dense"),
    ("discriminator_predictions.dense_prediction", "discriminator_predictions.dense_prediction"),
    ("sequence_summary.summary", "summary"),
    ("classifier.dense", "classifier.dense"),
    ("classifier.out_proj", "classifier.out_proj"),
    ("classifier", "classifier"),
    ("qa_outputs", "qa_outputs"),
)


def _table(config: Any) -> tuple[TableRow, ...]:
    return (
        *encoder_body(),
        *linear("embeddings_project", "embeddings.projection"),  # E1
        *(row for theirs, ours in _HEADS for row in linear(theirs, ours)),
        *tied_decoder(config, "generator_lm_head.weight"),
        *(row for theirs, _ in _HEADS for row in drop_linear(theirs, OTHER_HEAD)),
    )


FAMILY = Family(
    prefix="electra",
    table=_table,
    fresh=frozenset({"lm_head", "discriminator_predictions", "summary", "classifier", "qa_outputs"}),
)
