"""Classes of texts, or of pairs of texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from minitrans.models.auto import AutoModelForSequenceClassification
from minitrans.models.pretrained import PreTrainedModel
from minitrans.pipelines.text_classification import TextClassification
from minitrans.tokenizers.tokenizer import Tokenizer
from minitrans.training import metrics
from minitrans.training.data.encoding import encode_texts, label_names
from minitrans.training.data.records import Records
from minitrans.training.data.source import Source
from minitrans.training.recipes.recipe import Recipe, other_column


@dataclass(frozen=True, kw_only=True)
class OfTexts(Recipe):
    """A label for each text, or pair of texts, of a table.

    Attributes:
        text: the column of the texts; None = the one besides the label.
        pair: that of the second texts of pairs.
        label: that of the labels.
    """

    auto: ClassVar[Any] = AutoModelForSequenceClassification

    text: str | None = None
    pair: str | None = None
    label: str = "label"

    def examples(self, records: Records, model: PreTrainedModel, tokenizer: Tokenizer) -> Source:
        """As the base's."""
        return encode_texts(
            records, tokenizer, self.column(records), self.pair, label=self.label, names=self.names(model),
            max_length=self.length(model, tokenizer),
        )  # fmt: skip

    def require_scorable(self, records: Records, model: PreTrainedModel, tokenizer: Tokenizer) -> None:
        """As the base's."""
        self.examples(records, model, tokenizer)

    def names(self, model: PreTrainedModel) -> list[str] | None:
        """Of the classes; None = the labels are numbers."""
        return [name for _, name in sorted((model.config.id2label or {}).items())]

    def column(self, records: Records) -> str:
        """That of the texts."""
        return self.text or other_column(records, self.label)

    def found(self, model: PreTrainedModel, tokenizer: Tokenizer, records: Records, **how: Any) -> list[Any]:
        """What the pipeline says of each row."""
        texts = records.column(self.column(records))
        pairs = [None] * len(texts) if self.pair is None else records.column(self.pair)
        given = [{"text": text, "text_pair": other} for text, other in zip(texts, pairs, strict=True)]
        pipe = TextClassification(TextClassification.of(model, tokenizer))
        found: list[Any] = pipe(given, truncation=True, max_length=self.length(model, tokenizer), **how)
        return found


@dataclass(frozen=True, kw_only=True)
class Classify(OfTexts):
    """The names of the classes are those in the data, in order of the alphabet."""

    summary: ClassVar[str] = "A class for each text: a table with a column `label`."
    example: ClassVar[str] = "--data train.tsv --dev dev.tsv --model bert-base-uncased"
    best: ClassVar[str] = "accuracy"
    defaults: ClassVar[Mapping[str, Any]] = {"warmup": 0.06}

    def config(self, records: Records) -> dict[str, Any]:
        """The classes."""
        names = label_names(records, self.label)
        if len(names) < 2:
            raise ValueError(f"{records.name}: expected at least two classes, found {len(names)}")
        return {
            "problem_type": "single_label_classification",
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
            "num_labels": len(names),
        }

    def score(self, model: PreTrainedModel, tokenizer: Tokenizer, records: Records) -> metrics.Scores:
        """Accuracy and F1."""
        names = self.names(model) or []
        right = self.examples(records, model, tokenizer)
        found = [names.index(each["label"]) for each in self.found(model, tokenizer, records)]
        return metrics.classes(found, [right[place]["labels"] for place in range(len(right))], len(names))
