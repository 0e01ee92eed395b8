"""A text from a text: translation, summaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from minitrans.models.auto import AutoModelForSeq2SeqLM
from minitrans.models.pretrained import PreTrainedModel
from minitrans.pipelines.text_to_text import TextToText
from minitrans.tokenizers.auto import AutoTokenizer
from minitrans.tokenizers.tokenizer import Tokenizer
from minitrans.training import metrics
from minitrans.training.data.encoding import encode_pairs
from minitrans.training.data.parallel import read_parallel
from minitrans.training.data.records import Records
from minitrans.training.data.source import Source
from minitrans.training.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Seq2Seq(Recipe):
    """Two files, line by line, or a table.

    Attributes:
        source: the column of what is read.
        target: that of what is to be written.
        prefix: that every source begins with.
        beams: of the search when it is scored.
        longest_target: tokens that are written at most when it is scored; None = as long as the model takes.
    """

    summary: ClassVar[str] = "A text from a text: two files, line by line, or a table of source and target."
    example: ClassVar[str] = "--data train.en --data train.de --model t5-small"
    auto: ClassVar[Any] = AutoModelForSeq2SeqLM
    best: ClassVar[str] = "bleu"
    defaults: ClassVar[Mapping[str, Any]] = {"warmup": 0.06, "epochs": 10, "learning_rate": 3e-4}

    source: str = "source"
    target: str = "target"
    prefix: str = ""
    beams: int = 1
    longest_target: int | None = 128

    def read(self, paths: Sequence[Path]) -> Records:
        """As the base's."""
        return read_parallel(*paths) if len(paths) == 2 else super().read(paths)

    def load(
        self, name: str | None, tokenizer: str | None, architecture: Mapping[str, Any], records: Records
    ) -> tuple[PreTrainedModel, Tokenizer]:
        """As the base's; what a fresh decoder reads first is padding, as in T5."""
        if name is None and tokenizer is not None:
            pad = AutoTokenizer.from_pretrained(tokenizer).pad_token_id
            architecture = {"decoder_start_token_id": pad, **architecture}
        return super().load(name, tokenizer, architecture, records)

    def examples(self, records: Records, model: PreTrainedModel, tokenizer: Tokenizer) -> Source:
        """As the base's."""
        return encode_pairs(
            records, tokenizer, self.source, self.target, max_length=self.length(model, tokenizer), prefix=self.prefix
        )

    def score(self, model: PreTrainedModel, tokenizer: Tokenizer, records: Records) -> metrics.Scores:
        """BLEU and chrF of what it writes."""
        pipe = TextToText(TextToText.of(model, tokenizer))
        found = pipe(
            records.column(self.source), prefix=self.prefix, truncation=True, num_beams=self.beams,
            max_new_tokens=self.longest_target or self.length(model, tokenizer),
        )  # fmt: skip
        return metrics.translations([each["generated_text"] for each in found], records.column(self.target))
