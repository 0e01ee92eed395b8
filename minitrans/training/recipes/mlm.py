"""Hidden tokens are guessed, with or without pairs of texts: the pre-training of BERT, RoBERTa, ALBERT and SpanBERT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from minitrans.models.auto import AutoModelForMaskedLM, AutoModelForPreTraining
from minitrans.models.pretrained import PreTrainedModel
from minitrans.tokenizers.tokenizer import Tokenizer
from minitrans.training import metrics
from minitrans.training.data.encoding import encode_sentences
from minitrans.training.data.plain import read_documents
from minitrans.training.data.records import Records
from minitrans.training.data.source import Source
from minitrans.training.evaluation import language_scores
from minitrans.training.objective import Objective
from minitrans.training.objectives.pre_training import PRE_TRAINING
from minitrans.training.recipes.recipe import Recipe, only
from minitrans.training.settings import TrainingSettings

PAIRS = ("next sentence", "sentence order")


@dataclass(frozen=True, kw_only=True)
class OfDocuments(Recipe):
    """Documents, of which a line is a sentence, or a few.

    Attributes:
        pre_training: a row of PRE_TRAINING: what the inputs are and what is hidden.
        heading: a pattern of the lines that begin a document; None = a blank line is between two.
    """

    best: ClassVar[str] = "loss"
    maximize: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 1e-4, "warmup": 0.06}

    pre_training: Literal["bert", "roberta", "albert", "spanbert"] = "roberta"
    heading: str | None = None

    def read(self, paths: Sequence[Path]) -> Records:
        """As the base's."""
        return read_documents(only(paths), self.heading)

    def examples(self, records: Records, model: PreTrainedModel, tokenizer: Tokenizer) -> Source:
        """As the base's."""
        row = PRE_TRAINING[self.pre_training]
        return row.source(encode_sentences(records, tokenizer), tokenizer, self.length(model, tokenizer))

    def score(self, model: PreTrainedModel, tokenizer: Tokenizer, records: Records) -> metrics.Scores:
        """The loss, and the perplexity of hidden tokens."""
        return language_scores(model, self.objective(model, tokenizer), self.examples(records, model, tokenizer))


@dataclass(frozen=True, kw_only=True)
class Mlm(OfDocuments):
    """Whether tokens are hidden anew in every epoch says the row, unless `static` does."""

    summary: ClassVar[str] = "Masked language modelling: documents, a sentence a line, blank lines between."
    example: ClassVar[str] = "--data corpus.txt --model roberta-base"

    def adjusted(self, settings: TrainingSettings) -> TrainingSettings:
        """As the base's."""
        return replace(settings, static=settings.static or PRE_TRAINING[self.pre_training].static)

    def model_class(self) -> Any:
        """Pairs have a head of their own."""
        return AutoModelForPreTraining if PRE_TRAINING[self.pre_training].inputs in PAIRS else AutoModelForMaskedLM

    def objective(self, model: PreTrainedModel, tokenizer: Tokenizer) -> Objective:
        """As the row says."""
        return PRE_TRAINING[self.pre_training].objective(model, tokenizer)
