"""A class, several, or a number for a whole text or a pair of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from minitrans.models.auto import AutoModelForSequenceClassification
from minitrans.pipelines.base import Each, Pipeline

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda logits: logits.softmax(-1),
    "none": lambda logits: logits,
}
_LABEL_ONLY = "the best label alone"  # what the reference does where nobody says top_k


class TextClassification(Pipeline):
    """`pipe("A gripping film.")` -> [{"label": "good", "score": 0.98}]; a pair is {"text": ..., "text_pair": ...}."""

    auto_class = AutoModelForSequenceClassification
    head = "classifier of texts"

    @property
    def is_regression(self) -> bool:
        """Whether the model's scores are plain values."""
        kind = self.model.config.problem_type
        return kind == "regression" or (kind is None and self.model.config.num_labels == 1)

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """See `run`. The result of a single text is a list even where there is one label, as the reference has it."""
        found = super().__call__(inputs, **options)
        return [found] if isinstance(inputs, str) and "top_k" not in options else found

    def run(
        self,
        inputs: list[Any],
        each: Each,
        *,
        top_k: int | str | None = _LABEL_ONLY,
        function_to_apply: str | None = None,
        **tokenizing: Any,
    ) -> list[Any]:
        """For each text {"label", "score"}; with `top_k`, a list of that many of them (None: of all), the best first.

        Args:
            inputs: texts, or {"text": ..., "text_pair": ...}.
            each: runs the model.
            top_k: how many labels.
            function_to_apply: "softmax", "sigmoid", "none"; None = as the model's problem_type asks (B5).
            tokenizing: arguments of the tokenizer, such as truncation=True.
        """
        name = function_to_apply or self._function()
        if name not in FUNCTIONS:
            raise ValueError(f"function_to_apply: expected one of {', '.join(FUNCTIONS)}, got {name!r}")

        def finish(_: int, logits: Tensor) -> Any:
            scores = FUNCTIONS[name](logits).tolist()
            order = sorted(range(len(scores)), key=lambda label: (-scores[label], label))
            labels = [{"label": self.labels[label], "score": scores[label]} for label in order]
            return labels[0] if top_k == _LABEL_ONLY else labels[: top_k if isinstance(top_k, int) else None]

        return each(
            self.encode([_texts(given) for given in inputs], **tokenizing),
            lambda **fields: self.model(**fields).logits,
            finish,
        )

    def _function(self) -> str:
        kind = self.model.config.problem_type
        if kind == "regression":
            return "none"
        one = self.model.config.num_labels == 1
        return "sigmoid" if one or kind == "multi_label_classification" else "softmax"


def _texts(given: Any) -> Any:
    """A text, or a pair of texts."""
    if not isinstance(given, Mapping):
        return given
    return (given["text"], given["text_pair"]) if given.get("text_pair") is not None else given["text"]
