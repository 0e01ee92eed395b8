"""BART (Lewis et al. 2020), mBART, Marian, PEGASUS and M2M-100: names of the reference -> ours, both halves and the heads."""

from __future__ import annotations

from typing import Any

from weights_convert.families.family import OTHER_HEAD, Family, drop_linear, linear, unused
from weights_convert.rules import Drop, Rename, TableRow, Tied

_COMPUTED = "sinusoids, which are computed (S6, S7)"


def _attention(source: str, target: str) -> tuple[TableRow, ...]:
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}
    return tuple(row for theirs, ours in parts.items() for row in linear(f"{source}.{theirs}", f"{target}.{ours}"))


def _side(name: str, learned_positions: bool) -> tuple[TableRow, ...]:
    theirs, ours = f"{name}.layers.{{layer}}", f"{name}.encoder.layer.{{layer}}"
    return (
        Rename(f"{name}.embed_tokens.weight", f"{name}.embeddings.word_embeddings.weight"),
        Rename(f"{name}.embed_positions.weight", f"{name}.embeddings.position_embeddings.weight")
        if learned_positions
        else Drop(f"{name}.embed_positions.weight", _COMPUTED),
        *linear(f"{name}.layernorm_embedding", f"{name}.embeddings.LayerNorm"),
        *_attention(f"{theirs}.self_attn", f"{ours}.attention"),
        *linear(f"{theirs}.self_attn_layer_norm", f"{ours}.attention_LayerNorm"),
        *_attention(f"{theirs}.encoder_attn", f"{ours}.cross_attention"),
        *linear(f"{theirs}.encoder_attn_layer_norm", f"{ours}.cross_attention_LayerNorm"),
        *linear(f"{theirs}.fc1", f"{ours}.feed_forward.up"),
        *linear(f"{theirs}.fc2", f"{ours}.feed_forward.down"),
        *linear(f"{theirs}.final_layer_norm", f"{ours}.feed_forward_LayerNorm"),
        *linear(f"{name}.layer_norm", f"{name}.encoder.LayerNorm"),
        Drop(f"{name}.version", "a note of the tool that trained the model"),
    )


def _ties(config: Any) -> tuple[TableRow, ...]:
    decoder, head = "decoder.embed_tokens.weight", "lm_head.weight"
    if config.is_decoder:  # alone: a file of the pair holds the table by its first name
        tied = (Tied(head, decoder, switch="tie_word_embeddings"),) if config.tie_word_embeddings else ()
        return (*tied, Tied("shared.weight", decoder))
    if not config.get("share_encoder_decoder_embeddings", True):  # Marian
        return (Tied(head, decoder, switch="tie_word_embeddings"),) if config.tie_word_embeddings else ()
    # the reference unties everything at once, and keeps a table `shared` that nothing reads then
    switch, saved = ("tie_word_embeddings", "second") if config.tie_word_embeddings else (None, "both")
    return (
        Tied("encoder.embed_tokens.weight", "shared.weight", saved, switch),
        Tied(decoder, "shared.weight", saved, switch),
        *((Tied(head, "shared.weight", switch=switch),) if config.tie_word_embeddings else ()),
    )


def _table(config: Any) -> tuple[TableRow, ...]:
    encoder = _side("encoder", config.learned_positions)
    return (
        *encoder,
        *_side("decoder", config.learned_positions),
        *_ties(config),
        Rename("lm_head.weight", "lm_head.weight"),
        Rename("final_logits_bias", "final_logits_bias"),
        *linear("classification_head.dense", "classification_head.dense"),
        *linear("classification_head.out_proj", "classification_head.out_proj"),
        *linear("qa_outputs", "qa_outputs"),
        Drop("lm_head.weight", OTHER_HEAD),
        Drop("final_logits_bias", OTHER_HEAD),
        *drop_linear("classification_head.dense", OTHER_HEAD),
        *drop_linear("classification_head.out_proj", OTHER_HEAD),
        *drop_linear("qa_outputs", OTHER_HEAD),
        *unused((*encoder, Rename("shared.weight", "")), "this model is the decoder alone"),
    )


FAMILY = Family(
    prefix="model",
    table=_table,
    fresh=frozenset({"lm_head", "final_logits_bias", "classification_head", "qa_outputs"}),
)
