"""RoBERTa (Liu et al. 2019), and XLM-RoBERTa and CamemBERT, whose files use the same names (R6): BERT's body, other heads."""

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
from weights_convert.rules import Drop, TableRow, Tied


def _table(config: Any) -> tuple[TableRow, ...]:
    return (*encoder_body(), *heads(config))


def heads(config: Any) -> tuple[TableRow, ...]:
    """The rows of RoBERTa's heads."""
    return (
        *linear("lm_head.dense", "lm_head.dense"),
        *linear("lm_head.layer_norm", "lm_head.LayerNorm"),
        *linear("lm_head.decoder", "lm_head.decoder"),
        # R4, and B3's rule for the bias.
        Tied("lm_head.decoder.bias", "lm_head.bias", saved="second" if config.tie_word_embeddings else "both"),
        *tied_decoder(config, "lm_head.decoder.weight"),
        *linear("classifier.dense", "classifier.dense"),
        *linear("classifier.out_proj", "classifier.out_proj"),
        *linear("classifier", "classifier"),
        *linear("qa_outputs", "qa_outputs"),
        *drop_linear("lm_head.dense", OTHER_HEAD),
        *drop_linear("lm_head.layer_norm", OTHER_HEAD),
        *drop_linear("lm_head.decoder", OTHER_HEAD),
        Drop("lm_head.bias", OTHER_HEAD),
        *drop_linear("classifier.dense", OTHER_HEAD),
        *drop_linear("classifier.out_proj", OTHER_HEAD),
        *drop_linear("classifier", OTHER_HEAD),
        *drop_linear("qa_outputs", OTHER_HEAD),
    )


FRESH = frozenset({"pooler", "lm_head", "classifier", "qa_outputs", "cross_attention"})

FAMILY = Family(
    prefix="roberta",
    table=_table,
    fresh=FRESH,
)
