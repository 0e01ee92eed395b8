"""ModernBERT (Warner et al. 2024): fused projections, norms by their sub-layer, one prediction head for all tasks (N1)."""

from __future__ import annotations

from typing import Any

from weights_convert.families.family import OTHER_HEAD, Family, drop_linear, linear
from weights_convert.rules import Rename, Split, TableRow, Tied

_FILE, _OURS = "layers.{layer}", "encoder.layer.{layer}"
_QKV = ("query", "key", "value")
_TABLE = "embeddings.tok_embeddings.weight"
_NAMES = (
    (f"{_FILE}.attn.Wo", f"{_OURS}.attention.output"),
    (f"{_FILE}.attn_norm", f"{_OURS}.attention_LayerNorm"),
    (f"{_FILE}.mlp.Wo", f"{_OURS}.feed_forward.down"),
    (f"{_FILE}.mlp_norm", f"{_OURS}.feed_forward_LayerNorm"),
    ("embeddings.norm", "embeddings.LayerNorm"),
    ("final_norm", "encoder.LayerNorm"),
)
_HEADS = (("head.dense", "lm_head.dense"), ("head.norm", "lm_head.LayerNorm"), ("decoder", "lm_head.decoder"))


def _table(config: Any) -> tuple[TableRow, ...]:
    kinds = ("weight", "bias")
    return (
        Rename(_TABLE, "embeddings.word_embeddings.weight"),
        *(Split(f"{_FILE}.attn.Wqkv.{k}", tuple(f"{_OURS}.attention.{part}.{k}" for part in _QKV)) for k in kinds),
        *(
            Split(f"{_FILE}.mlp.Wi.{k}", tuple(f"{_OURS}.feed_forward.{part}.{k}" for part in ("gate", "up")))
            for k in kinds
        ),
        *(row for theirs, ours in (*_NAMES, *_HEADS) for row in linear(theirs, ours)),
        *linear("classifier", "classifier"),
        *((Tied("decoder.weight", _TABLE, switch="tie_word_embeddings"),) if config.tie_word_embeddings else ()),
        *(row for theirs, _ in (*_HEADS, ("classifier", "")) for row in drop_linear(theirs, OTHER_HEAD)),
    )


FAMILY = Family(
    prefix="model",
    table=_table,
    fresh=frozenset({"lm_head", "classifier"}),
)
