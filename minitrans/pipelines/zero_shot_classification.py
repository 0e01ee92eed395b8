"""Classes that no head was made for: which of several sentences a text entails (Yin et al. 2019)."""

from __future__ import annotations

from typing import Any

import torch

from minitrans.models.auto import AutoModelForSequenceClassification
from minitrans.pipelines.base import Each, Pipeline


class ZeroShotClassification(Pipeline):
    """`pipe("A gripping film.", ["film", "sport"])` -> {"sequence": ..., "labels": ["film", "sport"], "scores": [0.9, 0.1]}."""

    auto_class = AutoModelForSequenceClassification
    head = "classifier of texts"

    @property
    def entailment(self) -> int:
        """The class that says that a text entails a sentence. Raises ValueError for a model without one."""
        found = [number for number, name in self.labels.items() if name.lower().startswith("entail")]
        if not found or len(self.labels) < 2:
            told = ", ".join(self.labels.values())
            raise ValueError(f"the model must know entailment: a label must begin with 'entail', its labels are {told}")
        return found[0]

    def __call__(self, inputs: Any, candidate_labels: Any = None, **options: Any) -> Any:
        """See `run`."""
        given = {} if candidate_labels is None else {"candidate_labels": candidate_labels}
        return super().__call__(inputs, **given, **options)

    def run(
        self,
        inputs: list[str],
        each: Each,
        *,
        candidate_labels: str | list[str] = (),  # type: ignore[assignment]
        hypothesis_template: str = "This example is {}.",
        multi_label: bool = False,
        **tokenizing: Any,
    ) -> list[Any]:
        """For each text the labels, the best first, and their scores.

        Args:
            inputs: texts.
            each: runs the model.
            candidate_labels: a list, or names separated by commas.
            hypothesis_template: the sentence about a label, which stands in the place of {}.
            multi_label: whether each label is true or false by itself; else their scores add up to 1.
            tokenizing: arguments of the tokenizer, such as truncation=True, which cuts texts only.

        Raises:
            ValueError: without labels, for a sentence without a place for them, and for a model without entailment.
        """
        names = (
            [name.strip() for name in candidate_labels.split(",")]
            if isinstance(candidate_labels, str)
            else candidate_labels
        )
        names = [name for name in names if name]
        if not names:
            raise ValueError("candidate_labels: give at least one label")
        if hypothesis_template.format(names[0]) == hypothesis_template:
            raise ValueError(f"hypothesis_template: expected {{}} where the label goes, got {hypothesis_template!r}")
        entails = self.entailment
        if tokenizing.get("truncation"):
            tokenizing["truncation"] = "only_first"
        pairs = [(text, hypothesis_template.format(name)) for text in inputs for name in names]
        logits = each(
            self.encode(pairs, **tokenizing), lambda **fields: self.model(**fields).logits, lambda _, found: found
        )
        return [
            self._result(text, names, torch.stack(logits[start : start + len(names)]), entails, multi_label)
            for text, start in zip(inputs, range(0, len(logits), len(names)), strict=True)
        ]

    def _result(self, text: str, names: list[str], logits: Any, entails: int, multi_label: bool) -> dict[str, Any]:
        if multi_label or len(names) == 1:
            contradicts = -1 if entails == 0 else 0  # the class at the other end
            scores = logits[:, [contradicts, entails]].softmax(dim=-1)[:, 1]
        else:
            scores = logits[:, entails].softmax(dim=0)
        order = scores.argsort(descending=True, stable=True).tolist()
        return {"sequence": text, "labels": [names[at] for at in order], "scores": [float(scores[at]) for at in order]}
