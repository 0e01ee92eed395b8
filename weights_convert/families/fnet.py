"""FNet (Lee-Thorp et al. 2021): BERT's names, with a projection of the embeddings, and no attention."""

from __future__ import annotations

from typing import Any

from weights_convert.families.bert import heads
from weights_convert.families.family import BUFFERS, NO_POOLER, Family, drop_linear, linear, tables
from weights_convert.rules import Drop, TableRow

_LAYER = "encoder.layer.{layer}"
_TABLES = "a matrix of a Fourier transform; it is computed (FN1)"


def _table(config: Any) -> tuple[TableRow, ...]:
    return (
        *tables("word", "position", "token_type"),
        *linear("embeddings.LayerNorm", "embeddings.LayerNorm"),
        *linear("embeddings.projection", "embeddings.projection"),
        *linear(f"{_LAYER}.fourier.output.LayerNorm", f"{_LAYER}.attention_LayerNorm"),
        *linear(f"{_LAYER}.intermediate.dense", f"{_LAYER}.feed_forward.up"),
        *linear(f"{_LAYER}.output.dense", f"{_LAYER}.feed_forward.down"),
        *linear(f"{_LAYER}.output.LayerNorm", f"{_LAYER}.feed_forward_LayerNorm"),
        *(Drop(f"{_LAYER}.fourier.self.{name}", _TABLES) for name in ("dft_mat_hidden", "dft_mat_seq")),
        *linear("pooler.dense", "pooler.dense"),
        *drop_linear("pooler.dense", NO_POOLER),
        *BUFFERS,
        *heads(config),
    )


FAMILY = Family(
    prefix="fnet",
    table=_table,
    fresh=frozenset({"pooler", "lm_head", "seq_relationship", "classifier", "qa_outputs"}),
)
