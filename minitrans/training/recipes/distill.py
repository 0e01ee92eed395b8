"""A small classifier from a large one (Sanh et al. 2019, "DistilBERT"; Hinton et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from minitrans.models.pretrained import PreTrainedModel
from minitrans.tokenizers.tokenizer import Tokenizer
from minitrans.training.objective import Objective
from minitrans.training.objectives.classes import Classes
from minitrans.training.objectives.distillation import FromTeacher
from minitrans.training.recipes.classify import Classify


@dataclass(frozen=True, kw_only=True)
class Distill(Classify):
    """The teacher has the same classes and the same vocabulary.

    Attributes:
        teacher: a checkpoint of a classifier, such as `minitrans train classify` writes.
        temperature: of the soft targets.
        soft: weight of these.
        hard: of the labels.
        cosine: of the direction of the last hidden states; 0 where the widths differ.
    """

    summary: ClassVar[str] = "A small classifier learns from a large one: a table as for classify."
    example: ClassVar[str] = "--data train.tsv --model ./small --set teacher=./large"

    teacher: str = ""
    temperature: float = 2.0
    soft: float = 5.0
    hard: float = 2.0
    cosine: float = 1.0

    def objective(self, model: PreTrainedModel, tokenizer: Tokenizer) -> Objective:
        """The three losses. Raises ValueError for a teacher of other classes or another vocabulary."""
        if not self.teacher:
            raise ValueError("teacher: say which classifier to learn from, --set teacher=FOLDER")
        teacher: Any = self.auto.from_pretrained(self.teacher)
        for field in ("vocab_size", "num_labels", "id2label"):
            ours, theirs = getattr(model.config, field), getattr(teacher.config, field)
            if ours != theirs:
                raise ValueError(f"teacher: {field}: the student has {ours}, the teacher {theirs}")
        teacher.padding = "remove"
        same = teacher.config.hidden_size == model.config.hidden_size
        weights = (self.soft, self.hard, self.cosine if same else 0.0)
        return FromTeacher(Classes(model), teacher.to(model.device), temperature=self.temperature, weights=weights)
