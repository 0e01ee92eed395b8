"""T5 (Raffel et al. 2020): names of the reference -> ours, both halves and the heads."""

from __future__ import annotations

from typing import Any

from weights_convert.families.family import OTHER_HEAD, Family, drop_linear, linear, unused
from weights_convert.rules import Drop, Rename, TableRow, Tied

_SHARE = "share_encoder_decoder_embeddings"
_NOT_READ = "cross-attention has no distances: the reference does not read it either (T5)"


def _attention(source: str, target: str) -> tuple[TableRow, ...]:
    parts = {"q": "query", "k": "key", "v": "value", "o": "output"}
    return tuple(Rename(f"{source}.{theirs}.weight", f"{target}.{ours}.weight") for theirs, ours in parts.items())


def _side(name: str, feed_forward: int, gated: bool) -> tuple[TableRow, ...]:
    """One half; `feed_forward` is the number of that sub-layer in a block of the file."""
    theirs, ours = f"{name}.block.{{layer}}.layer", f"{name}.encoder.layer.{{layer}}"
    dense = f"{theirs}.{feed_forward}.DenseReluDense"
    distances = "relative_attention_bias.weight"
    return (
        Rename(f"{name}.embed_tokens.weight", f"{name}.embeddings.word_embeddings.weight"),
        *_attention(f"{theirs}.0.SelfAttention", f"{ours}.attention"),
        Rename(f"{name}.block.0.layer.0.SelfAttention.{distances}", f"{name}.encoder.{distances}"),
        Rename(f"{theirs}.0.SelfAttention.{distances}", f"{ours}.attention.distance_embedding.weight"),  # UMT5
        Rename(f"{theirs}.0.layer_norm.weight", f"{ours}.attention_LayerNorm.weight"),
        Rename(f"{dense}.{'wi_1' if gated else 'wi'}.weight", f"{ours}.feed_forward.up.weight"),  # T3
        Rename(f"{dense}.wi_0.weight", f"{ours}.feed_forward.gate.weight"),
        Rename(f"{dense}.wo.weight", f"{ours}.feed_forward.down.weight"),
        Rename(f"{theirs}.{feed_forward}.layer_norm.weight", f"{ours}.feed_forward_LayerNorm.weight"),
        Rename(f"{name}.final_layer_norm.weight", f"{name}.encoder.LayerNorm.weight"),
    )


def _table(config: Any) -> tuple[TableRow, ...]:
    theirs, ours = "decoder.block.{layer}.layer.1", "decoder.encoder.layer.{layer}"
    shared, one = "shared.weight", config.share_encoder_decoder_embeddings
    apart = Tied(
        "lm_head.weight", shared, "both"
    )  # a head that the file lacks is that table, whatever the others are (T4)
    decoder = (
        *_side("decoder", 2, config.is_gated),
        *_attention(f"{theirs}.EncDecAttention", f"{ours}.cross_attention"),
        Rename(f"{theirs}.layer_norm.weight", f"{ours}.cross_attention_LayerNorm.weight"),
    )
    return (
        *_side("encoder", 1, config.is_gated),
        *decoder,
        Drop("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", _NOT_READ),
        Rename("lm_head.weight", "lm_head.weight"),
        *(
            Tied(f"{side}.embed_tokens.weight", shared, "second" if one else "both", _SHARE if one else None)
            for side in ("encoder", "decoder")
        ),
        *((Tied("lm_head.weight", shared, switch="tie_word_embeddings"),) if config.tie_word_embeddings else ()),
        *(() if one else (apart,)),
        *linear("classification_head.dense", "classification_head.dense"),
        *linear("classification_head.out_proj", "classification_head.out_proj"),
        *linear("classifier", "classifier"),
        *linear("qa_outputs", "qa_outputs"),
        Drop("lm_head.weight", OTHER_HEAD),
        *drop_linear("classification_head.dense", OTHER_HEAD),
        *drop_linear("classification_head.out_proj", OTHER_HEAD),
        *drop_linear("classifier", OTHER_HEAD),
        *drop_linear("qa_outputs", OTHER_HEAD),
        *unused(decoder, "this model is the encoder alone"),
    )


FAMILY = Family(
    prefix="transformer",
    table=_table,
    fresh=frozenset({"lm_head", "classification_head", "classifier", "qa_outputs"}),
)
