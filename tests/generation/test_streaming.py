"""Streamers join to the text, and texts end where they are told to."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitrans import TextIteratorStreamer, TextStreamer
from minitrans.generation.stopping import ended_by_text
from minitrans.generation.text import Text


class Words:
    """A tokenizer of pieces; it writes no space before a full stop, as those do that clean up."""

    pieces = ("", " the", " cat", "s", " .", "\n", "狗", " sat", "é", " ")

    def decode(self, ids: list[int], **options: Any) -> str:
        return "".join(self.pieces[each] for each in ids).replace(" .", ".").lstrip(" ")


@given(
    ids=st.lists(st.integers(1, 9), min_size=1, max_size=12), prompt=st.lists(st.integers(1, 9), min_size=1, max_size=4)
)
def test_pieces_join_to_the_text(ids: list[int], prompt: list[int]):
    for skip in (True, False):
        pieces: list[str] = []
        streamer = TextStreamer(Words(), skip_prompt=skip)
        streamer.on_finalized_text = lambda text, stream_end=False, pieces=pieces: pieces.append(text)
        for _ in range(2):  # a streamer can be used again
            pieces.clear()
            streamer.put(torch.tensor([prompt]))
            for each in ids:
                streamer.put(torch.tensor([each]))
            streamer.end()
            assert "".join(pieces) == Words().decode(ids if skip else prompt + ids)


def test_words_come_when_nothing_can_change_them():
    streamer = TextStreamer(Words())
    shown: list[str] = []
    streamer.on_finalized_text = lambda text, stream_end=False: shown.append(text)
    for each in (1, 2, 3, 4, 6, 5):
        streamer.put(torch.tensor([each]))
    assert shown == ["", "the", "", "", " cats.狗", "\n"]


def test_a_terminal_gets_the_text(pair: Callable[..., Any], capsys: pytest.CaptureFixture[str]):
    model, ids = pair("bert").ours, torch.tensor([[2, 7]])
    call = {"max_new_tokens": 6, "eos_token_id": None, "suppress_tokens": [0, *range(10, 23)]}
    written = model.generate(ids, streamer=TextStreamer(Words()), **call)
    assert capsys.readouterr().out == Words().decode(written[0].tolist()) + "\n"
    drafted = model.generate(ids, streamer=TextStreamer(Words()), assistant_model=model, **call)
    assert drafted.tolist() == written.tolist()
    assert capsys.readouterr().out == Words().decode(written[0].tolist()) + "\n"
    with pytest.raises(ValueError, match="a streamer shows one text"):
        model.generate(ids.expand(2, 2), streamer=TextStreamer(Words()), **call)
    with pytest.raises(ValueError, match="a streamer shows text that stays"):
        model.generate(ids, streamer=TextStreamer(Words()), num_beams=2, **call)


def test_a_loop_beside_gets_the_text(pair: Callable[..., Any]):
    model, ids = pair("bert").ours, torch.tensor([[2, 7]])
    call = {"max_new_tokens": 6, "eos_token_id": None, "suppress_tokens": [0, *range(10, 23)]}
    streamer = TextIteratorStreamer(Words(), skip_prompt=True, timeout=60)
    thread = Thread(target=model.generate, args=(ids,), kwargs={**call, "streamer": streamer})
    thread.start()
    assert "".join(streamer) == Words().decode(model.generate(ids, **call)[0, 2:].tolist())
    thread.join()


def text(ids: list[int]) -> Text:
    row = torch.tensor([ids])
    zero = torch.tensor([0])
    return Text(row, zero, zero + 1, zero + 9, zero)


@pytest.mark.parametrize(
    ("ids", "strings", "ends"),
    [
        ([1, 2], ["cat"], True),
        ([1, 2, 7], ["cat"], False),  # it was complete before the last token
        ([1, 2, 3], ["ats"], True),  # begun in the token before
        ([1, 2, 3], ["the cats"], True),
        ([1, 2, 3, 4], ["s."], True),  # the space went
        ([1, 2, 7, 2], ["cat"], True),  # once more
        ([1, 2, 7], ["dog", "t s"], True),  # ends within the token
        ([1, 2, 7], ["xx"], False),
    ],
)
def test_a_string_ends_a_text_with_the_token_that_completes_it(ids: list[int], strings: list[str], ends: bool):
    assert ended_by_text(strings, Words().decode)(text(ids)).tolist() == [ends]


def test_texts_end_as_they_are_told(pair: Callable[..., Any]):
    model, ids = pair("bert").ours, torch.tensor([[2, 7], [3, 4]])
    call = {"eos_token_id": None, "pad_token_id": 1, "max_new_tokens": 10}
    whole = model.generate(ids, **call)
    assert (
        model.generate(ids, max_time=1e-9, **call).tolist() == whole[:, :3].tolist()
    )  # the first token comes in any case
    seen: list[int] = []

    def of_four(ids: torch.Tensor, scores: Any) -> torch.Tensor:
        seen.append(ids.shape[1])
        return ids[:, -1] == whole[0, 4]

    ended = model.generate(ids, stopping_criteria=[of_four], **call)
    first = whole[0, 2:].tolist().index(int(whole[0, 4])) + 3
    assert ended[0, :first].tolist() == whole[0, :first].tolist()
    assert set(ended[0, first:].tolist()) <= {1}
    assert seen[:2] == [3, 4]
    likes = {"sequence_bias": [[[6], 4.0]], "suppress_tokens": [0, *range(10, 23)]}
    stopped = model.generate(ids, stop_strings=["狗"], tokenizer=Words(), **likes, **call)[:, 2:].tolist()
    assert [row.index(6) for row in stopped] == [
        row.index(6) for row in model.generate(ids, **likes, **call)[:, 2:].tolist()
    ]
    assert all(set(row[row.index(6) + 1 :]) <= {1} for row in stopped)
