"""RoBERTa-PreLayerNorm: RoBERTa with the norms before the sub-layers (Ott et al. 2019, fairseq; Wettig et al. 2023).

The embeddings are normed all the same, and what leaves the last block is normed once more, before pooler and heads (R6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minitrans.layers.norms import LayerNorm
from minitrans.layers.stack import Stack
from minitrans.models import roberta, tasks
from minitrans.models.backbone import build_block
from minitrans.models.config import EncoderConfig


@dataclass(kw_only=True)
class RobertaPreLayerNormConfig(roberta.RobertaArchitectureConfig):
    """The defaults are RoBERTa's; the meaning of each field stands in `config.py`."""

    model_type: ClassVar[str] = "roberta-prelayernorm"

    vocab_size: int = 50265


class RobertaPreLayerNormModel(roberta.RobertaBody):
    """Embeddings, L pre-norm blocks, a norm, and a pooler on the first token."""

    config_class = RobertaPreLayerNormConfig
    base_model_prefix = "roberta_prelayernorm"

    def stack(self, config: EncoderConfig) -> Stack:
        """R6: norms before each sub-layer, and one at the end."""
        blocks = (build_block(config, norm_first=True) for _ in range(config.num_hidden_layers))
        return Stack(blocks, LayerNorm(config.hidden_size, config.layer_norm_eps))


class RobertaPreLayerNormForMaskedLM(roberta.MaskedLM):
    """RoBERTa-PreLayerNorm with a head that scores the vocabulary at every token."""

    body_class = RobertaPreLayerNormModel


class RobertaPreLayerNormForCausalLM(roberta.CausalLM):
    """RoBERTa-PreLayerNorm as a decoder with a head that scores the next token."""

    body_class = RobertaPreLayerNormModel


class RobertaPreLayerNormForSequenceClassification(roberta.SequenceClassification):
    """RoBERTa-PreLayerNorm with a two-layer classifier on the first token."""

    body_class = RobertaPreLayerNormModel


class RobertaPreLayerNormForTokenClassification(tasks.TokenClassification):
    """RoBERTa-PreLayerNorm with a linear classifier on every token."""

    body_class = RobertaPreLayerNormModel


class RobertaPreLayerNormForQuestionAnswering(tasks.QuestionAnswering):
    """RoBERTa-PreLayerNorm with a head that scores every token as the first and as the last of the answer."""

    body_class = RobertaPreLayerNormModel


class RobertaPreLayerNormForMultipleChoice(roberta.MultipleChoice):
    """RoBERTa-PreLayerNorm with a head that scores each of several texts."""

    body_class = RobertaPreLayerNormModel
