"""ALBERT (Lan et al. 2020): names of the reference -> ours, body and heads."""

from __future__ import annotations

from typing import Any

from weights_convert.families.family import (
    BUFFERS,
    NO_POOLER,
    OTHER_HEAD,
    Family,
    drop_linear,
    linear,
    tables,
    tied_decoder,
)
from weights_convert.rules import Drop, TableRow, Tied

_BLOCK = (
    ("attention.query", "attention.query"),
    ("attention.key", "attention.key"),
    ("attention.value", "attention.value"),
    ("attention.dense", "attention.output"),
    ("attention.LayerNorm", "attention_LayerNorm"),
    ("ffn", "feed_forward.up"),
    ("ffn_output", "feed_forward.down"),
    ("full_layer_layer_norm", "feed_forward_LayerNorm"),
)
_HEADS = (
    ("predictions.dense", "lm_head.dense"),
    ("predictions.LayerNorm", "lm_head.LayerNorm"),
    ("predictions.decoder", "lm_head.decoder"),
    ("sop_classifier.classifier", "sop_classifier"),
    ("classifier", "classifier"),
    ("qa_outputs", "qa_outputs"),
)


def _blocks(config: Any) -> tuple[TableRow, ...]:
    """A1: block `inner` of group `group` is the layer that many on."""
    places = [(group, inner) for group in range(config.num_hidden_groups) for inner in range(config.inner_group_num)]
    return tuple(
        row
        for number, (group, inner) in enumerate(places)
        for theirs, ours in _BLOCK
        for row in linear(
            f"encoder.albert_layer_groups.{group}.albert_layers.{inner}.{theirs}", f"encoder.layer.{number}.{ours}"
        )
    )


def _table(config: Any) -> tuple[TableRow, ...]:
    return (
        *tables("word", "position", "token_type"),
        *linear("embeddings.LayerNorm", "embeddings.LayerNorm"),
        *linear("encoder.embedding_hidden_mapping_in", "embeddings.projection"),  # A1
        *_blocks(config),
        *linear("pooler", "pooler.dense"),
        *drop_linear("pooler", NO_POOLER),
        *BUFFERS,
        *(row for theirs, ours in _HEADS for row in linear(theirs, ours)),
        # B3's rule for the bias.
        Tied("predictions.decoder.bias", "predictions.bias", saved="second" if config.tie_word_embeddings else "both"),
        *tied_decoder(config, "predictions.decoder.weight"),
        *(row for theirs, _ in _HEADS for row in drop_linear(theirs, OTHER_HEAD)),
        Drop("predictions.bias", OTHER_HEAD),
    )


FAMILY = Family(
    prefix="albert",
    table=_table,
    fresh=frozenset({"pooler", "lm_head", "sop_classifier", "classifier", "qa_outputs"}),
)
