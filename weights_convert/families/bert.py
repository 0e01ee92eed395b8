"""BERT (Devlin et al. 2019): names of the reference -> ours, body and heads."""

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


def heads(config: Any, norm: str = "LayerNorm") -> tuple[TableRow, ...]:
    """The rows of BERT's heads; `norm` is what a file calls the one of the language model's."""
    return (
        *linear("cls.predictions.transform.dense", "lm_head.dense"),
        *linear(f"cls.predictions.transform.{norm}", "lm_head.LayerNorm"),
        *linear("cls.predictions.decoder", "lm_head.decoder"),
        # B3: the forward uses decoder.bias; a tied file holds only predictions.bias, an untied one must hold both.
        Tied(
            "cls.predictions.decoder.bias",
            "cls.predictions.bias",
            saved="second" if config.tie_word_embeddings else "both",
        ),
        *tied_decoder(config, "cls.predictions.decoder.weight"),
        *linear("cls.seq_relationship", "seq_relationship"),
        *linear("classifier", "classifier"),
        *linear("qa_outputs", "qa_outputs"),
        *drop_linear("cls.predictions.transform.dense", OTHER_HEAD),
        *drop_linear(f"cls.predictions.transform.{norm}", OTHER_HEAD),
        *drop_linear("cls.predictions.decoder", OTHER_HEAD),
        Drop("cls.predictions.bias", OTHER_HEAD),
        *drop_linear("cls.seq_relationship", OTHER_HEAD),
        *drop_linear("classifier", OTHER_HEAD),
        *drop_linear("qa_outputs", OTHER_HEAD),
    )


FAMILY = Family(
    prefix="bert",
    table=_table,
    fresh=frozenset({"pooler", "lm_head", "seq_relationship", "classifier", "qa_outputs", "cross_attention"}),
)
