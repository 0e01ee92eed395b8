"""The vectors of a text's tokens, as the body makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from minitrans.pipelines.base import Each, Pipeline


class FeatureExtraction(Pipeline):
    """`pipe("a text")` -> (1, T, D) as nested lists, or as a tensor with `return_tensors=True`."""

    def run(
        self,
        inputs: list[str],
        each: Each,
        *,
        return_tensors: bool = False,
        truncation: bool | None = None,
        tokenize_kwargs: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """The last hidden states of each text.

        Args:
            inputs: texts.
            each: runs the model.
            return_tensors: tensors instead of lists.
            truncation: whether a text that is too long is cut.
            tokenize_kwargs: more arguments of the tokenizer.
        """
        rows = self.encode(inputs, **{"truncation": truncation, **(tokenize_kwargs or {})})

        def finish(index: int, states: Tensor) -> Any:
            states = states[: len(rows[index]["input_ids"])].to(self.model.dtype).unsqueeze(0)  # (1, T, D)
            return states if return_tensors else states.tolist()

        return each(rows, lambda **fields: self.model(**fields).last_hidden_state, finish)
