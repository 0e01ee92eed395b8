"""DeBERTa-v2 and v3 (He et al. 2021, 2023): names of the reference -> ours, body and heads."""

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
from weights_convert.rules import Drop, Rename, TableRow, Tied

_LAYER = "encoder.layer.{layer}"
_PROJECTIONS = {
    "query_proj": "query", "key_proj": "key", "value_proj": "value", "pos_key_proj": "position_key",
    "pos_query_proj": "position_query",
}  # fmt: skip
_LEGACY, _NEW = "cls.predictions", "lm_predictions.lm_head"
_REPLACED = (
    "it belongs to the discriminator of the pre-training"  # which published files hold, and no model of the reference
)


def _table(config: Any) -> tuple[TableRow, ...]:
    return (
        *tables("word", "position", "token_type"),
        Rename("embeddings.embed_proj.weight", "embeddings.projection.weight"),
        *linear("embeddings.LayerNorm", "embeddings.LayerNorm"),
        *(
            row
            for theirs, ours in _PROJECTIONS.items()
            for row in linear(f"{_LAYER}.attention.self.{theirs}", f"{_LAYER}.attention.{ours}")
        ),
        *linear(f"{_LAYER}.attention.output.dense", f"{_LAYER}.attention.output"),
        *linear(f"{_LAYER}.attention.output.LayerNorm", f"{_LAYER}.attention_LayerNorm"),
        *linear(f"{_LAYER}.intermediate.dense", f"{_LAYER}.feed_forward.up"),
        *linear(f"{_LAYER}.output.dense", f"{_LAYER}.feed_forward.down"),
        *linear(f"{_LAYER}.output.LayerNorm", f"{_LAYER}.feed_forward_LayerNorm"),
        Rename("encoder.rel_embeddings.weight", "encoder.relative_embeddings.weight"),
        *linear("encoder.LayerNorm", "encoder.relative_embeddings.LayerNorm"),
        *linear("encoder.conv.conv", "encoder.convolution.conv"),
        *linear("encoder.conv.LayerNorm", "encoder.convolution.LayerNorm"),
        *linear("pooler.dense", "pooler.dense"),
        *linear("classifier", "classifier"),
        *linear("qa_outputs", "qa_outputs"),
        *(_legacy_head(config) if config.legacy else _new_head()),
        POSITION_BUFFER,
        Drop("embeddings.position_embeddings.weight", "this model has no positions in its embeddings (V1)"),
        *(row for head in ("pooler.dense", "classifier", "qa_outputs") for row in drop_linear(head, OTHER_HEAD)),
        *(
            row
            for head in (f"{_LEGACY}.transform", _NEW)
            for part in ("dense", "LayerNorm")
            for row in drop_linear(f"{head}.{part}", OTHER_HEAD)
        ),
        *drop_linear(f"{_LEGACY}.decoder", OTHER_HEAD),
        *(Drop(f"{head}.bias", OTHER_HEAD) for head in (_LEGACY, _NEW)),
        *(
            row
            for part in ("dense", "LayerNorm", "classifier")
            for row in drop_linear(f"mask_predictions.{part}", _REPLACED)
        ),
    )


def _legacy_head(config: Any) -> tuple[TableRow, ...]:
    tied = config.tie_word_embeddings
    return (
        *linear(f"{_LEGACY}.transform.dense", "lm_head.dense"),
        *linear(f"{_LEGACY}.transform.LayerNorm", "lm_head.LayerNorm"),
        *linear(f"{_LEGACY}.decoder", "lm_head.decoder"),
        Tied(f"{_LEGACY}.decoder.bias", f"{_LEGACY}.bias", saved="second" if tied else "both"),
        *tied_decoder(config, f"{_LEGACY}.decoder.weight"),
    )


def _new_head() -> tuple[TableRow, ...]:
    """Its decoder is the token table, of which no file has a copy."""
    return (
        *linear(f"{_NEW}.dense", "lm_head.dense"),
        *linear(f"{_NEW}.LayerNorm", "lm_head.LayerNorm"),
        Rename(f"{_NEW}.decoder.weight", "lm_head.decoder.weight"),
        Rename(f"{_NEW}.bias", "lm_head.decoder.bias"),
        Tied(f"{_NEW}.decoder.weight", "embeddings.word_embeddings.weight"),
    )


FAMILY = Family(
    prefix="deberta",
    table=_table,
    fresh=frozenset({"pooler", "lm_head", "classifier", "qa_outputs"}),
)
