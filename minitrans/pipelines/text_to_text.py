"""A text from a text, by a pair: translations, summaries, or whatever the model was trained for."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import Tensor

from minitrans.models.auto import AutoModelForSeq2SeqLM
from minitrans.pipelines.base import Each, Pipeline


class TextToText(Pipeline):
    """`pipe("translate English to German: Good morning.")` -> [{"generated_text": "Guten Morgen."}], one for each sequence."""

    auto_class = AutoModelForSeq2SeqLM
    head = "sequence-to-sequence head"
    returns: ClassVar[str] = "generated"

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """See `run`. Of a list of texts with one sequence each the result is a list of these, as the reference had it."""
        found = super().__call__(inputs, **options)
        single = isinstance(inputs, list) and all(len(each) == 1 for each in found)
        return [each[0] for each in found] if single else found

    def run(
        self,
        inputs: list[str],
        each: Each,
        *,
        return_tensors: bool = False,
        prefix: str | None = None,
        truncation: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **settings: Any,
    ) -> list[Any]:
        """For each text what the model makes of it.

        Args:
            inputs: sources.
            each: runs the model.
            return_tensors: the ids, as "..._token_ids".
            prefix: that every source begins with, such as "summarize: "; None = the configuration's, if it has one.
            truncation: cut texts that are too long.
            clean_up_tokenization_spaces: of the tokenizer's `decode`; None = as it does by itself.
            settings: of `generate`, such as num_beams=4, max_new_tokens=60.

        Raises:
            ValueError: for a text that is too long, and for settings that cannot be.
        """
        tokenizer, first = self.tokenizer, self.model.config.get("prefix") if prefix is None else prefix
        rows = self.encode([f"{first or ''}{text}" for text in inputs], truncation=truncation)
        if settings.get("stop_strings") is not None:
            settings.setdefault("tokenizer", tokenizer)
        clean = (
            {}
            if clean_up_tokenization_spaces is None
            else {"clean_up_tokenization_spaces": clean_up_tokenization_spaces}
        )

        def compute(attention_mask: Tensor, input_ids: Tensor, **others: Tensor) -> Tensor:
            model = cast("Any", self.model)
            written: Tensor = model.generate(input_ids=input_ids, attention_mask=attention_mask, **settings)
            return written.view(len(input_ids), -1, written.shape[1])  # (B, sequences, T)

        def finish(index: int, written: Tensor) -> list[dict[str, Any]]:
            found = written.long().tolist()
            if return_tensors:
                return [{f"{self.returns}_token_ids": ids} for ids in found]
            return [{f"{self.returns}_text": tokenizer.decode(ids, skip_special_tokens=True, **clean)} for ids in found]

        return each(rows, compute, finish)


class Translation(TextToText):
    """`pipe("Good morning.")` -> [{"translation_text": "Guten Morgen."}]."""

    returns = "translation"


class Summarization(TextToText):
    """`pipe(article)` -> [{"summary_text": ...}]."""

    returns = "summary"
