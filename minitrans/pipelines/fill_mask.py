"""The words that a language model expects in the place of a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from minitrans.files import printable
from minitrans.models.auto import AutoModelForMaskedLM
from minitrans.pipelines.base import Each, Pipeline


class FillMask(Pipeline):
    """`pipe("Paris is the [MASK] of France.")` -> [{"score", "token", "token_str", "sequence"}, ...], the best first."""

    auto_class = AutoModelForMaskedLM
    head = "masked-language-model head"

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """See `run`. The result of a list of one text is that of the text, as the reference has it."""
        found = super().__call__(inputs, **options)
        return found[0] if isinstance(inputs, list) and len(inputs) == 1 else found

    def run(
        self,
        inputs: list[str],
        each: Each,
        *,
        top_k: int = 5,
        targets: str | Sequence[str] | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """For each text its guesses; of a text with several masks a list for each, filled while the others stay.

        Args:
            inputs: texts with the mask token of the model in them.
            each: runs the model.
            top_k: how many guesses for a mask.
            targets: only these words are guesses; one that is no token stands for its first.
            tokenizer_kwargs: more arguments of the tokenizer.

        Raises:
            ValueError: for a text without a mask, or too long.
        """
        tokenizer = self.tokenizer
        mask, mask_id = tokenizer.mask_token, tokenizer.mask_token_id
        if mask is None or mask_id is None:
            raise ValueError("the tokenizer of this model has no mask token")
        rows = self.encode(inputs, **(tokenizer_kwargs or {}))
        if any(mask_id not in row["input_ids"] for row in rows):
            raise ValueError(
                f"a text: expected the mask token of this model, {mask}, where a word is missing; found none"
            )
        chosen = None if targets is None else self._ids([targets] if isinstance(targets, str) else targets)

        def finish(index: int, logits: Tensor) -> Any:
            probabilities = logits.softmax(-1)  # (masks, V)
            if chosen is not None:
                probabilities = probabilities[:, chosen]
            best = probabilities.topk(min(top_k, len(tokenizer), probabilities.shape[1]))
            tokens = best.indices if chosen is None else torch.tensor(chosen)[best.indices]
            ids = list(rows[index]["input_ids"])
            places = [place for place, token in enumerate(ids) if token == mask_id]
            found = [
                [self._guess(ids, place, *pair, alone=len(places) == 1) for pair in zip(*of_mask, strict=True)]
                for place, *of_mask in zip(places, tokens.tolist(), best.values.tolist(), strict=True)
            ]
            return found[0] if len(found) == 1 else found

        return each(rows, self._scores, finish)

    def _scores(self, **fields: Tensor) -> Sequence[Tensor]:
        """(masks, V) of each text: the vocabulary is wide, and only masks are scored."""
        masks = fields["input_ids"] == self.tokenizer.mask_token_id  # (B, T)
        hidden = self.model.base_model(**fields).last_hidden_state  # (B, T, D)
        logits: Tensor = self.model.get_submodule("lm_head")(hidden[masks])
        return torch.split(logits, masks.sum(dim=1).tolist())

    def _guess(self, ids: Sequence[int], place: int, token: int, score: float, *, alone: bool) -> dict[str, Any]:
        filled = [*ids[:place], token, *ids[place + 1 :]]
        text = self.tokenizer.decode(
            [each for each in filled if each != self.tokenizer.pad_token_id], skip_special_tokens=alone
        )
        return {"score": score, "token": token, "token_str": self.tokenizer.decode([token]), "sequence": text}

    def _ids(self, targets: Sequence[str]) -> list[int]:
        vocabulary = self.tokenizer.get_vocab()
        found: dict[int, None] = {}
        for target in targets:
            ids = [vocabulary[target]] if target in vocabulary else self.tokenizer.encode(target, None, False)
            if not ids:
                raise ValueError(f"targets: expected words, got {printable(repr(target))}, of which no token is left")
            found[ids[0]] = None
        if not found:
            raise ValueError("targets: expected at least one word, got none")
        return list(found)
