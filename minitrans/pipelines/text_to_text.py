"""A text from a text, by a pair: summaries, translations, and whatever else a model was taught."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from torch import Tensor

from minitrans.files import printable
from minitrans.models.auto import AutoModelForSeq2SeqLM
from minitrans.pipelines.base import Each, Pipeline
from minitrans.tokenizers.translation import TranslationTokenizer

DIRECTION = re.compile("translation_[^_]+_to_[^_]+")


class TextToText(Pipeline):
    """`pipe("translate English to German: A house.")` -> [{"generated_text": "Ein Haus."}], one for each sequence."""

    auto_class = AutoModelForSeq2SeqLM
    head = "head that writes texts"
    name: ClassVar[str] = "generated"  # what the results are called
    task: ClassVar[str | None] = None  # whose settings in config.json hold, a prefix among them

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """See `run`. The result of a text is a list; those of several are not lists where each is one, as in the reference."""
        found = super().__call__(inputs, **options)
        return (
            [one for (one,) in found] if isinstance(inputs, list) and all(len(each) == 1 for each in found) else found
        )

    def run(
        self,
        inputs: list[str],
        each: Each,
        *,
        prefix: str | None = None,
        truncation: bool = False,
        return_tensors: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        reading: AbstractContextManager[Any] | None = None,
        **settings: Any,
    ) -> list[Any]:
        """For each text what the model writes.

        Args:
            inputs: texts.
            each: runs the model.
            prefix: that every text begins with; None = what config.json says for this task, such as "summarize: ".
            truncation: cut texts that are too long.
            return_tensors: the ids, as "..._token_ids".
            clean_up_tokenization_spaces: of the tokenizer's `decode`; None = as it does by itself.
            reading: in which texts are encoded, such as their language's.
            settings: of `generate`, such as num_beams=4, max_new_tokens=60; before them those of config.json for this task.

        Raises:
            ValueError: for a text that is too long, and for settings that cannot be.
        """
        settings = {**self.own_settings(), **settings}
        own = settings.pop("prefix", self.model.config.get("prefix"))
        if settings.get("stop_strings") is not None:
            settings.setdefault("tokenizer", self.tokenizer)
        first = (own if prefix is None else prefix) or ""
        with reading or nullcontext():
            rows = self.encode([f"{first}{text}" for text in inputs], truncation=truncation)
        clean = (
            {}
            if clean_up_tokenization_spaces is None
            else {"clean_up_tokenization_spaces": clean_up_tokenization_spaces}
        )

        def compute(**fields: Tensor) -> Tensor:
            fields.pop("token_type_ids", None)
            written: Tensor = self.model.get_submodule("").generate(**fields, **settings)  # type: ignore[operator]
            return written.view(len(fields["input_ids"]), -1, written.shape[1])  # (B, sequences, T)

        def finish(_: int, written: Tensor) -> list[dict[str, Any]]:
            if return_tensors:
                return [{f"{self.name}_token_ids": ids} for ids in written.long().tolist()]
            texts = (self.tokenizer.decode(ids, skip_special_tokens=True, **clean) for ids in written.long().tolist())
            return [{f"{self.name}_text": text} for text in texts]

        return each(rows, compute, finish)

    def own_settings(self, task: str | None = None) -> dict[str, Any]:
        """What config.json says for a task: settings of `generate`, and a prefix."""
        found = self._settings_of_tasks().get(task or self.task)
        return dict(found) if isinstance(found, Mapping) else {}

    def _settings_of_tasks(self) -> Mapping[Any, Any]:
        known = self.model.config.get("task_specific_params")
        return known if isinstance(known, Mapping) else {}


class Summarization(TextToText):
    """`pipe("A long article ...")` -> [{"summary_text": "..."}]."""

    name = "summary"
    task = "summarization"


class Translation(TextToText):
    """`pipe("A house.")` -> [{"translation_text": "Ein Haus."}]."""

    name = "translation"

    def run(
        self,
        inputs: list[str],
        each: Each,
        *,
        direction: str | None = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        **options: Any,
    ) -> list[Any]:
        """See `TextToText.run`.

        Args:
            inputs: texts.
            each: runs the model.
            direction: "translation_en_to_de", of models that are told by a prefix.
            src_lang: of the texts, of models with languages, by their code.
            tgt_lang: of the translations.
            options: the other arguments.

        Raises:
            ValueError: for a language of a model that has none, and for a direction that is none of the model's.
        """
        known = [name for name in self._settings_of_tasks() if DIRECTION.fullmatch(name)]
        if direction is not None and (direction not in known if known else not DIRECTION.fullmatch(direction)):
            expected = ", ".join(known) or "translation_XX_to_YY"
            raise ValueError(f"direction: expected {expected}, got {printable(direction)}")
        tokenizer = self.tokenizer
        if src_lang is not None or tgt_lang is not None:
            if not isinstance(tokenizer, TranslationTokenizer):
                raise ValueError(f"{type(tokenizer).__name__} has no languages: leave src_lang and tgt_lang out")
            if tgt_lang is not None:
                tokenizer.require_language("tgt_lang", tgt_lang)
                options.setdefault("forced_bos_token_id", tokenizer.lang_code_to_id[tgt_lang])
            options["reading"] = tokenizer.speaking(src_lang or tokenizer.src_lang)
        return super().run(inputs, each, **{**self.own_settings(direction or "translation"), **options})
