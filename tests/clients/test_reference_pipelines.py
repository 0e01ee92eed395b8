"""The reference's pipelines on our model and tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")


def test_fill_mask(both: Callable[..., tuple[Any, Any]], tokenizer: Any) -> None:
    """It writes into the output (`outputs["input_ids"] = ...`), and reads the mask token of the tokenizer."""
    texts = ["the cat sat on the [MASK] .", "[MASK] was born in london ?"]
    ours, theirs = (
        transformers.FillMaskPipeline(model=model, tokenizer=tokenizer)(texts) for model in both("ForMaskedLM")
    )
    for mine, expected in zip(ours, theirs, strict=True):
        assert [guess["token_str"] for guess in mine] == [guess["token_str"] for guess in expected]
        assert [guess["sequence"] for guess in mine] == [guess["sequence"] for guess in expected]
        assert [guess["score"] for guess in mine] == pytest.approx([guess["score"] for guess in expected], rel=1e-5)
