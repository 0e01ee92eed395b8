"""Recipes of encoders' pre-training, as rows of one table: what the inputs are, what is hidden, and how often it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import nn

from minitrans.training.data.packing import full_sentences
from minitrans.training.data.sentence_pairs import next_sentence_pairs, sentence_order_pairs
from minitrans.training.data.source import Document, Examples
from minitrans.training.objectives.masked import Choose, Masked, spans, tokens

Inputs = Literal["next sentence", "sentence order", "full sentences", "document sentences"]
_BUILDERS: dict[Inputs, Callable[..., Examples]] = {
    "next sentence": next_sentence_pairs,
    "sentence order": sentence_order_pairs,
    "full sentences": full_sentences,
    "document sentences": partial(full_sentences, across=False),
}


@dataclass(frozen=True)
class PreTraining:
    """One recipe.

    Attributes:
        inputs: pairs of texts with a label, or sentences that fill the length.
        static: whether the hidden tokens are drawn once for all epochs: `TrainingSettings.static`.
        rounds: of pairs, how often the documents are gone through for different ones; static masks differ between rounds.
        choose: what is hidden.
    """

    inputs: Inputs
    static: bool = False
    rounds: int = 1
    choose: Choose | None = None

    def source(self, documents: Sequence[Document], tokenizer: Any, length: int, seed: int = 0) -> Examples:
        """The inputs, of at most `length` tokens; `seed` draws pairs."""
        special = {"first": tokenizer.cls_token_id, "last": tokenizer.sep_token_id}
        drawn = {"seed": seed, "rounds": self.rounds} if self.inputs in ("next sentence", "sentence order") else {}
        return _BUILDERS[self.inputs](documents, length, **special, **drawn)

    def objective(self, model: nn.Module, tokenizer: Any) -> Masked:
        """Of a model with the heads that the inputs ask for."""
        return Masked(model, tokenizer, self.choose)


PRE_TRAINING: dict[str, PreTraining] = {
    "bert": PreTraining("next sentence", static=True, rounds=10, choose=tokens()),  # Devlin et al. 2019, and its code
    "roberta": PreTraining("full sentences", choose=tokens()),  # Liu et al. 2019, section 4
    "albert": PreTraining(
        "sentence order", static=True, rounds=10, choose=spans(longest=3)
    ),  # Lan et al. 2020, section 4.1
    "spanbert": PreTraining("document sentences", choose=spans()),  # Joshi et al. 2020, without its boundary objective
}
