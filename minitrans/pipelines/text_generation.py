"""How a text goes on, by a causal language model."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from minitrans.models.auto import AutoModelForCausalLM
from minitrans.pipelines.base import Each, Pipeline


class TextGeneration(Pipeline):
    """`pipe("Once upon a time", max_new_tokens=20)` -> [{"generated_text": "Once upon a time ..."}], one for each sequence."""

    auto_class = AutoModelForCausalLM
    head = "causal language-model head"

    def run(
        self,
        inputs: list[str],
        each: Each,
        *,
        return_full_text: bool = True,
        return_tensors: bool = False,
        prefix: str | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        add_special_tokens: bool = True,
        **settings: Any,
    ) -> list[Any]:
        """For each text what may follow it.

        Args:
            inputs: prompts.
            each: runs the model.
            return_full_text: with the prompt before it.
            return_tensors: the ids, prompt included, as "generated_token_ids".
            prefix: that every prompt begins with.
            clean_up_tokenization_spaces: of the tokenizer's `decode`; None = as it does by itself.
            add_special_tokens: whether prompts get the tokens that the tokenizer puts around texts.
            settings: of `generate`, such as max_new_tokens=20, do_sample=True, num_return_sequences=3, streamer=...

        Raises:
            ValueError: for a text that is too long, and for settings that cannot be.
        """
        tokenizer = self.tokenizer
        rows = self.encode([f"{prefix or ''}{text}" for text in inputs], add_special_tokens=add_special_tokens)
        if settings.get("stop_strings") is not None:
            settings.setdefault("tokenizer", tokenizer)
        if tokenizer.pad_token_id is not None:
            settings.setdefault("pad_token_id", tokenizer.pad_token_id)
        clean = (
            {}
            if clean_up_tokenization_spaces is None
            else {"clean_up_tokenization_spaces": clean_up_tokenization_spaces}
        )

        def compute(**fields: Tensor) -> Tensor:
            written = cast("Any", self.model).generate(**fields, **settings)
            new: Tensor = written[:, fields["input_ids"].shape[1] :]
            return new.view(len(fields["input_ids"]), -1, new.shape[1])  # (B, sequences, T)

        def finish(index: int, new: Tensor) -> list[dict[str, Any]]:
            prompt = list(rows[index]["input_ids"])
            before = len(tokenizer.decode(prompt, skip_special_tokens=True, **clean))
            found = []
            for ids in new.long().tolist():
                if return_tensors:
                    found.append({"generated_token_ids": prompt + ids})
                    continue
                text = tokenizer.decode(prompt + ids, skip_special_tokens=True, **clean)[before:]
                found.append({"generated_text": f"{prefix or ''}{inputs[index]}{text}" if return_full_text else text})
            return found

        return each(rows, compute, finish)
