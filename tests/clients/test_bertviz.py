"""bertviz: the data of its head view are those of the reference's attentions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

bertviz = pytest.importorskip("bertviz")

Both = Callable[..., tuple[Any, Any]]


def data(html: Any) -> list[dict[str, Any]]:
    """The views in the page: their names, texts and attention."""
    text = html.data
    start = text.index('{"attention"')
    views: list[dict[str, Any]] = json.JSONDecoder().raw_decode(text[start:])[0]["attention"]
    return views


@pytest.mark.filterwarnings("ignore:Exception ignored while finalizing file:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_head_view_of_a_pair(both: Both, tokenizer: Any) -> None:
    given = tokenizer("the cat sat on the mat .", "it was late", return_tensors="pt")
    tokens = tokenizer.convert_ids_to_tokens(given["input_ids"][0].tolist())
    second = given["token_type_ids"][0].tolist().index(1)
    pages = []
    for model in both("ForSequenceClassification"):
        with torch.no_grad():
            attention = model.double()(**given, output_attentions=True).attentions
        pages.append(data(bertviz.head_view(attention, tokens, second, html_action="return")))
    assert [view["name"] for view in pages[0]] == [view["name"] for view in pages[1]]
    assert len(pages[0]) == 5
    for mine, expected in zip(*pages, strict=True):
        assert (mine["left_text"], mine["right_text"]) == (expected["left_text"], expected["right_text"])
        torch.testing.assert_close(torch.tensor(mine["attn"]), torch.tensor(expected["attn"]), rtol=0, atol=1e-6)
