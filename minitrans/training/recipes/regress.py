"""A number for a text, or for a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from minitrans.models.pretrained import PreTrainedModel
from minitrans.tokenizers.tokenizer import Tokenizer
from minitrans.training import metrics
from minitrans.training.data.records import Records
from minitrans.training.recipes.classify import OfTexts


@dataclass(frozen=True, kw_only=True)
class Regress(OfTexts):
    """The mean squared error is learnt."""

    summary: ClassVar[str] = "A number for each text, or pair: a table with a column `label`."
    example: ClassVar[str] = "--data train.tsv --dev dev.tsv --model bert-base-uncased --set label=score"
    best: ClassVar[str] = "spearman"
    defaults: ClassVar[Mapping[str, Any]] = {"warmup": 0.06}

    def config(self, records: Records) -> dict[str, Any]:
        """One number."""
        return {"problem_type": "regression", "num_labels": 1}

    def names(self, model: PreTrainedModel) -> None:
        """Labels are numbers."""

    def score(self, model: PreTrainedModel, tokenizer: Tokenizer, records: Records) -> metrics.Scores:
        """Correlations."""
        right = self.examples(records, model, tokenizer)
        found = [each["score"] for each in self.found(model, tokenizer, records, function_to_apply="none")]
        return metrics.numbers(found, [right[place]["labels"] for place in range(len(right))])
