"""CamemBERT: RoBERTa for French (Martin et al. 2020). Only the vocabulary differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minitrans.models import roberta, tasks


@dataclass(kw_only=True)
class CamembertConfig(roberta.RobertaArchitectureConfig):
    """The defaults are those of the published base model; the meaning of each field stands in `config.py`."""

    model_type: ClassVar[str] = "camembert"

    vocab_size: int = 32005


class CamembertModel(roberta.RobertaBody):
    """Embeddings, L post-norm blocks, and a pooler on the first token."""

    config_class = CamembertConfig


class CamembertForMaskedLM(roberta.MaskedLM):
    """CamemBERT with a head that scores the vocabulary at every token."""

    body_class = CamembertModel


class CamembertForCausalLM(roberta.CausalLM):
    """CamemBERT as a decoder with a head that scores the next token."""

    body_class = CamembertModel


class CamembertForSequenceClassification(roberta.SequenceClassification):
    """CamemBERT with a two-layer classifier on the first token."""

    body_class = CamembertModel


class CamembertForTokenClassification(tasks.TokenClassification):
    """CamemBERT with a linear classifier on every token."""

    body_class = CamembertModel


class CamembertForQuestionAnswering(tasks.QuestionAnswering):
    """CamemBERT with a head that scores every token as the first and as the last of the answer."""

    body_class = CamembertModel


class CamembertForMultipleChoice(roberta.MultipleChoice):
    """CamemBERT with a head that scores each of several texts."""

    body_class = CamembertModel
