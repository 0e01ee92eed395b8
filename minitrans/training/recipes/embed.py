"""Vectors of sentences whose cosines say how alike they are (Reimers & Gurevych 2019, "Sentence-BERT")."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch.nn import functional as F

from minitrans.embedding import Encoder
from minitrans.embedding import recipe as embedding
from minitrans.files import atomic_write, write_json
from minitrans.models.auto import AutoModel
from minitrans.models.pretrained import PreTrainedModel
from minitrans.tokenizers.tokenizer import Tokenizer
from minitrans.training import metrics
from minitrans.training.data.encoding import encode_texts
from minitrans.training.data.records import Records
from minitrans.training.data.source import Examples, Source
from minitrans.training.objective import Objective
from minitrans.training.objectives.contrastive import InBatchNegatives, Similarity
from minitrans.training.recipes.recipe import Recipe

_PARTS = ("Transformer", "", "Pooling", "1_Pooling", "Normalize", "2_Normalize")


@dataclass(frozen=True, kw_only=True)
class Embed(Recipe):
    """A vector is the mean over the tokens, of length 1.

    Attributes:
        first: the column of the first texts.
        second: that of the second ones.
        label: that of how alike they are; "" = there is none, the two of a row belong together, all others do not.
        scale: the highest label: a cosine of 1.
    """

    summary: ClassVar[str] = "A sentence encoder: a table of pairs and how alike they are."
    example: ClassVar[str] = "--data stsb-train.csv --dev stsb-dev.csv --model ./minilm"
    auto: ClassVar[Any] = AutoModel
    best: ClassVar[str] = "spearman"
    defaults: ClassVar[Mapping[str, Any]] = {"warmup": 0.1, "learning_rate": 2e-5}

    first: str = "sentence1"
    second: str = "sentence2"
    label: str = "score"
    scale: float = 5.0

    def load(
        self, name: str | None, tokenizer: str | None, architecture: Mapping[str, Any], records: Records
    ) -> tuple[PreTrainedModel, Tokenizer]:
        """As the base's; a pooler has no part in the vectors and does not learn."""
        model, read = super().load(name, tokenizer, architecture, records)
        pooler = getattr(model, "pooler", None)
        if pooler is not None:
            pooler.requires_grad_(False)
        return model, read

    def examples(self, records: Records, model: PreTrainedModel, tokenizer: Tokenizer) -> Source:
        """As the base's: both sides, and a cosine."""
        length = self.length(model, tokenizer)
        one = encode_texts(records, tokenizer, self.first, label=self.label or None, max_length=length)
        other = encode_texts(records, tokenizer, self.second, max_length=length)
        pairs = [
            {
                "input_ids": left["input_ids"], "other_ids": right["input_ids"],
                **({"labels": left["labels"] / self.scale} if self.label else {}),
            }
            for left, right in zip(one.examples, other.examples, strict=True)
        ]  # fmt: skip
        return Examples(pairs, [records.where(number) for number in range(len(records))], records.name)

    def objective(self, model: PreTrainedModel, tokenizer: Tokenizer) -> Objective:
        """The squared error of the cosine; without labels each text against the second ones of all others."""
        return Similarity(model) if self.label else InBatchNegatives(model)

    def score(self, model: PreTrainedModel, tokenizer: Tokenizer, records: Records) -> metrics.Scores:
        """Correlations of the cosines."""
        recipe = embedding.Recipe(max_length=self.length(model, tokenizer))
        encoder = Encoder.of(model.eval(), tokenizer, recipe)
        sides = [encoder.encode(records.column(column), normalize=True) for column in (self.first, self.second)]
        right = records.map(lambda row: float(row[self.label]))
        return metrics.numbers(F.cosine_similarity(*sides).tolist(), right)

    def save(self, model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
        """As the base's, with the files that make it a sentence-transformers folder."""
        super().save(model, tokenizer, folder)
        places: Sequence[tuple[str, str]] = list(zip(_PARTS[::2], _PARTS[1::2], strict=True))
        modules = [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (kind, path) in enumerate(places)
        ]
        for _, path in places:
            (folder / path).mkdir(exist_ok=True)
        with atomic_write(folder / "modules.json") as temporary:
            temporary.write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
        write_json(
            folder / "sentence_bert_config.json",
            {"max_seq_length": self.length(model, tokenizer), "do_lower_case": False},
        )
        width = model.config.hidden_size
        write_json(
            folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
        )
