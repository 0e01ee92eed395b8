"""NomicBERT (Nussbaum et al. 2024): the names of its authors, which files have, and those of the reference's modules."""

from __future__ import annotations

from typing import Any

from weights_convert.families.bert import heads
from weights_convert.families.family import BUFFERS, NO_POOLER, Family, drop_linear, linear, tables
from weights_convert.rules import Alias, Drop, Rename, Split, TableRow

_FILE, _MODULE, _OURS = "encoder.layers.{layer}", "layers.{layer}", "encoder.layer.{layer}"
_PARTS = ("query", "key", "value")
_WEIGHTS = (  # in files, in the reference's modules, ours
    ("attn.out_proj", "self_attn.o_proj", "attention.output"),
    ("mlp.fc11", "mlp.up_proj", "feed_forward.up"),
    ("mlp.fc12", "mlp.gate_proj", "feed_forward.gate"),
    ("mlp.fc2", "mlp.down_proj", "feed_forward.down"),
)
_NORMS = (
    ("norm1", "post_attention_layernorm", "attention_LayerNorm"),
    ("norm2", "post_mlp_layernorm", "feed_forward_LayerNorm"),
)


def _table(config: Any) -> tuple[TableRow, ...]:
    names = [(f"{theirs}.weight", f"{module}.weight", f"{ours}.weight") for theirs, module, ours in _WEIGHTS]
    names += [
        (f"{theirs}.{kind}", f"{module}.{kind}", f"{ours}.{kind}")
        for theirs, module, ours in _NORMS
        for kind in ("weight", "bias")
    ]
    return (
        *tables("word", "token_type"),
        *linear("emb_ln", "embeddings.LayerNorm"),
        Split(f"{_FILE}.attn.Wqkv.weight", tuple(f"{_OURS}.attention.{part}.weight" for part in _PARTS)),
        *(Rename(f"{_FILE}.{theirs}", f"{_OURS}.{ours}") for theirs, _, ours in names),
        *(Alias(f"embeddings.LayerNorm.{kind}", f"embeddings.LayerNorm.{kind}") for kind in ("weight", "bias")),
        *(Alias(f"{_MODULE}.self_attn.{part[0]}_proj.weight", f"{_OURS}.attention.{part}.weight") for part in _PARTS),
        *(Alias(f"{_MODULE}.{module}", f"{_OURS}.{ours}") for _, module, ours in names),
        *linear("pooler.dense", "pooler.dense"),
        *drop_linear("pooler.dense", NO_POOLER),
        *BUFFERS,
        *(Drop(f"rotary_emb.{name}", "a buffer of frequencies; they are computed") for name in ("inv_freq", "original_inv_freq")),
        *heads(config, norm="layer_norm"),
    )  # fmt: skip


FAMILY = Family(
    prefix="nomic_bert",
    table=_table,
    fresh=frozenset({"pooler", "lm_head", "classifier"}),
)
