"""XLM-RoBERTa: RoBERTa over a hundred languages (Conneau et al. 2020), with a vocabulary for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minitrans.models import roberta, tasks


@dataclass(kw_only=True)
class XLMRobertaConfig(roberta.RobertaArchitectureConfig):
    """The defaults are those of the published base model; the meaning of each field stands in `config.py`."""

    model_type: ClassVar[str] = "xlm-roberta"

    vocab_size: int = 250002


class XLMRobertaModel(roberta.RobertaBody):
    """Embeddings, L post-norm blocks, and a pooler on the first token."""

    config_class = XLMRobertaConfig


class XLMRobertaForMaskedLM(roberta.MaskedLM):
    """XLM-RoBERTa with a head that scores the vocabulary at every token."""

    body_class = XLMRobertaModel


class XLMRobertaForCausalLM(roberta.CausalLM):
    """XLM-RoBERTa as a decoder with a head that scores the next token."""

    body_class = XLMRobertaModel


class XLMRobertaForSequenceClassification(roberta.SequenceClassification):
    """XLM-RoBERTa with a two-layer classifier on the first token."""

    body_class = XLMRobertaModel


class XLMRobertaForTokenClassification(tasks.TokenClassification):
    """XLM-RoBERTa with a linear classifier on every token."""

    body_class = XLMRobertaModel


class XLMRobertaForQuestionAnswering(tasks.QuestionAnswering):
    """XLM-RoBERTa with a head that scores every token as the first and as the last of the answer."""

    body_class = XLMRobertaModel


class XLMRobertaForMultipleChoice(roberta.MultipleChoice):
    """XLM-RoBERTa with a head that scores each of several texts."""

    body_class = XLMRobertaModel
