"""The span of a text that answers a question (Devlin et al. 2019, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from minitrans.models.auto import AutoModelForQuestionAnswering
from minitrans.models.pretrained import PreTrainedModel
from minitrans.pipelines.question_answering import QuestionAnswering
from minitrans.tokenizers.tokenizer import Tokenizer
from minitrans.training import metrics
from minitrans.training.data.encoding import encode_questions
from minitrans.training.data.records import Records
from minitrans.training.data.source import Source
from minitrans.training.data.squad import read_squad
from minitrans.training.recipes.recipe import Recipe, only

WINDOW = 384


@dataclass(frozen=True, kw_only=True)
class Answer(Recipe):
    """Long contexts are read in windows that overlap.

    Attributes:
        stride: tokens that two windows share.
        longest_answer: tokens.
    """

    summary: ClassVar[str] = "The answer to a question in a text: a file of SQuAD's form."
    example: ClassVar[str] = "--data train-v1.1.json --dev dev-v1.1.json --model bert-base-uncased"
    auto: ClassVar[Any] = AutoModelForQuestionAnswering
    best: ClassVar[str] = "f1"
    defaults: ClassVar[Mapping[str, Any]] = {"warmup": 0.06, "epochs": 2, "learning_rate": 3e-5}

    stride: int = 128
    longest_answer: int = 30

    def read(self, paths: Sequence[Path]) -> Records:
        """As the base's."""
        return read_squad(only(paths))

    def config(self, records: Records) -> dict[str, Any]:
        """A first token and a last one."""
        return {"num_labels": 2}

    def length(self, model: PreTrainedModel, tokenizer: Tokenizer) -> int:
        """Tokens of a window with its question."""
        return self.max_length or min(super().length(model, tokenizer), WINDOW)

    def examples(self, records: Records, model: PreTrainedModel, tokenizer: Tokenizer) -> Source:
        """As the base's, a window an example."""
        length = self.length(model, tokenizer)
        return encode_questions(records, tokenizer, max_length=length, stride=min(self.stride, length // 3))

    def score(self, model: PreTrainedModel, tokenizer: Tokenizer, records: Records) -> metrics.Scores:
        """Exact match and F1 of words; a question without an answer is right when the empty text is found."""
        right = [row["answers"]["text"] or [""] for row in records]
        length = self.length(model, tokenizer)
        found = QuestionAnswering(QuestionAnswering.of(model, tokenizer))(
            [{"question": row["question"], "context": row["context"]} for row in records],
            max_seq_len=length, doc_stride=min(self.stride, length // 3), max_answer_len=self.longest_answer,
            handle_impossible_answer=any(texts == [""] for texts in right),
        )  # fmt: skip
        return metrics.answers([each["answer"] for each in (found if isinstance(found, list) else [found])], right)
