"""The next token, from those before it (Radford et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from minitrans.models.auto import AutoModelForCausalLM
from minitrans.models.pretrained import PreTrainedModel
from minitrans.tokenizers.tokenizer import Tokenizer
from minitrans.training import metrics
from minitrans.training.data.packing import blocks
from minitrans.training.data.plain import read_texts
from minitrans.training.data.records import Records
from minitrans.training.data.source import Source
from minitrans.training.evaluation import language_scores
from minitrans.training.recipes.recipe import Recipe, only

AT_ONCE = 1024  # texts that the tokenizer is given together


@dataclass(frozen=True, kw_only=True)
class Lm(Recipe):
    """All lines are one stream, cut in blocks."""

    summary: ClassVar[str] = "Causal language modelling: a file of texts, one a line."
    example: ClassVar[str] = "--data corpus.txt --dev valid.txt --model gpt2"
    auto: ClassVar[Any] = AutoModelForCausalLM
    best: ClassVar[str] = "loss"
    maximize: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 3e-4, "warmup": 0.02, "schedule": "cosine"}

    def read(self, paths: Sequence[Path]) -> Records:
        """As the base's."""
        return read_texts(only(paths))

    def examples(self, records: Records, model: PreTrainedModel, tokenizer: Tokenizer) -> Source:
        """As the base's."""
        end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        ids = ids_of_texts(records.column("text"), tokenizer)
        return blocks(ids, self.length(model, tokenizer), end, records.name)

    def score(self, model: PreTrainedModel, tokenizer: Tokenizer, records: Records) -> metrics.Scores:
        """Perplexity, of tokens."""
        return language_scores(model, self.objective(model, tokenizer), self.examples(records, model, tokenizer))


def ids_of_texts(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Their tokens, without special ones."""
    parts = (texts[start : start + AT_ONCE] for start in range(0, len(texts), AT_ONCE))
    return [
        ids
        for part in parts
        for ids in tokenizer(list(part), add_special_tokens=False, return_attention_mask=False, verbose=False)[
            "input_ids"
        ]
    ]
