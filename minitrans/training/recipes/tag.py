"""A tag for every word: names, parts of speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from minitrans.layers.losses import IGNORED
from minitrans.models.auto import AutoModelForTokenClassification
from minitrans.models.pretrained import PreTrainedModel
from minitrans.tokenizers.tokenizer import Tokenizer
from minitrans.training import metrics
from minitrans.training.data.conll import read_conll
from minitrans.training.data.encoding import encode_words, label_names
from minitrans.training.data.records import Records
from minitrans.training.data.source import Source
from minitrans.training.evaluation import outputs_of
from minitrans.training.recipes.recipe import Recipe, only


@dataclass(frozen=True, kw_only=True)
class Tag(Recipe):
    """The tag of a word is that of its first token.

    Attributes:
        word: the column of the words, counted from 0.
        tag: that of the tags; -1 = the last.
    """

    summary: ClassVar[str] = "A tag for each word: a CoNLL file, a word and its tag a line."
    example: ClassVar[str] = "--data train.conll --dev dev.conll --model bert-base-cased"
    auto: ClassVar[Any] = AutoModelForTokenClassification
    best: ClassVar[str] = "f1"
    defaults: ClassVar[Mapping[str, Any]] = {"warmup": 0.06}

    word: int = 0
    tag: int = -1

    def read(self, paths: Sequence[Path]) -> Records:
        """As the base's."""
        return read_conll(only(paths), word=self.word, tag=self.tag)

    def config(self, records: Records) -> dict[str, Any]:
        """The tags."""
        names = label_names(records, "tags")
        return {
            "id2label": dict(enumerate(names)),
            "label2id": {name: number for number, name in enumerate(names)},
            "num_labels": len(names),
        }

    def examples(self, records: Records, model: PreTrainedModel, tokenizer: Tokenizer) -> Source:
        """As the base's."""
        return encode_words(records, tokenizer, names=_names(model), max_length=self.length(model, tokenizer))

    def score(self, model: PreTrainedModel, tokenizer: Tokenizer, records: Records) -> metrics.Scores:
        """F1 of whole entities; a word that was cut off counts as O. A tag that the training never saw is only wrong."""
        names, right = _names(model), records.column("tags", list)
        known = Records(
            records.name,
            [{"words": row["words"], "tags": [names[0]] * len(row["tags"])} for row in records],
            records.lines,
        )
        source = self.examples(known, model, tokenizer)
        rows = [source[place] for place in range(len(source))]
        found = []
        for row, logits, tags in zip(rows, outputs_of(model, tokenizer, rows, "logits"), right, strict=True):
            first = [place for place, label in enumerate(row["labels"]) if label != IGNORED]
            told = [names[label] for label in logits[first].argmax(dim=-1).tolist()]
            found.append([*told, *["O"] * (len(tags) - len(told))])
        return metrics.entities(found, right)


def _names(model: PreTrainedModel) -> list[str]:
    return [name for _, name in sorted((model.config.id2label or {}).items())]
