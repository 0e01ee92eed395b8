"""Words and spans of the token classifier, against plain loops; vocabularies of other kinds than WordPiece."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch

import minitrans
from minitrans import AutoModelForTokenClassification, AutoTokenizer
from minitrans.pipelines.token_classification import Span, best_placed, word_spans

NAMES = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}


@pytest.fixture(scope="session")
def tagger(tiny) -> str:
    return tiny("BertForTokenClassification", "tagger", num_labels=5, id2label=NAMES)


def tagged_words(pipe, text: str, batch_size: int) -> list[Span]:
    """The words of a text, each with the class and the probability of its first token."""
    each = partial(pipe._each, batch_size=batch_size, progress=None)
    return pipe.words(text, best_placed(pipe.windows([text], each, stride=pipe.max_length // 4)[0]))


def span(label: str, start: int, end: int, score: float = 1.0) -> Span:
    return Span(label, start, end, score)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], []),
        ([span("O", 0, 1)], []),
        ([span("B-PER", 0, 3, 0.5), span("I-PER", 4, 9, 1.0)], [span("PER", 0, 9, 0.75)]),
        ([span("B-PER", 0, 3), span("B-PER", 4, 9)], [span("PER", 0, 3), span("PER", 4, 9)]),
        ([span("B-PER", 0, 3), span("I-LOC", 4, 9)], [span("PER", 0, 3), span("LOC", 4, 9)]),
        ([span("I-PER", 0, 3), span("I-PER", 4, 9)], [span("PER", 0, 9)]),
        ([span("B-LOC", 0, 3), span("O", 4, 5), span("I-LOC", 6, 9)], [span("LOC", 0, 3), span("LOC", 6, 9)]),
        ([span("NOUN", 0, 3), span("NOUN", 4, 9)], [span("NOUN", 0, 3), span("NOUN", 4, 9)]),
        ([span("X-Y-Z", 0, 3)], [span("X-Y-Z", 0, 3)]),
        ([span("B-A-B", 0, 3), span("I-A-B", 4, 5)], [span("A-B", 0, 5)]),
    ],
)
def test_words_become_spans(words: list[Span], expected: list[Span]):
    assert word_spans(words) == expected


def test_words_have_the_class_of_their_first_token(tagger: str):
    pipe = minitrans.pipeline("token-classification", tagger)
    text = "Ada walked cats , walking dogs ."
    tokenizer, model = AutoTokenizer.from_pretrained(tagger), AutoModelForTokenClassification.from_pretrained(tagger)
    batch = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**batch).logits.double().softmax(-1)[0]
    words = [(w.group(), *w.span()) for w in re.finditer(r"\S+", text)]
    found = tagged_words(pipe, text, 8)
    assert [(text[w.start : w.end], w.start, w.end) for w in found] == words
    for word in found:
        first = batch.char_to_token(word.start)
        assert word.label == NAMES[int(probabilities[first].argmax())]
        assert word.score == pytest.approx(float(probabilities[first].max()))


def test_long_texts_are_tagged_in_windows(tagger: str):
    pipe = minitrans.pipeline("token-classification", tagger)
    text = " ".join(f"{word} in london ," for word in ["ada", "lovelace", "cat", "dog"] * 8)
    found = tagged_words(pipe, text, 3)
    assert [text[word.start : word.end] for word in found] == text.split()
    tokenizer, model = pipe.tokenizer, pipe.model
    windows = tokenizer(text, truncation=True, max_length=32, stride=8, return_overflowing_tokens=True,
                        return_offsets_mapping=True, padding=True, return_tensors="pt")  # fmt: skip
    count = len(windows["input_ids"])
    assert count > 3
    with torch.no_grad():
        logits = model(**{k: v for k, v in windows.items() if k in tokenizer.model_input_names}).logits
    for word in found:
        best = max(
            (min(t - 1, int(windows["attention_mask"][w].sum()) - 2 - t), -w, t)
            for w in range(count)
            for t in range(1, 31)
            if windows["offset_mapping"][w, t].tolist() == [word.start, word.end]
        )
        assert word.label == NAMES[int(logits[-best[1], best[2]].argmax())]


def test_offsets_leave_out_the_space_before_a_word(byte_level):
    folder = byte_level("RobertaForTokenClassification", num_labels=5, id2label=NAMES)
    pipe = minitrans.pipeline("token-classification", folder)
    text = "  Ada Lovelace's  naïve\tnotebooks, in London. " + "Supercalifragilistic! " * 9
    found = tagged_words(pipe, text, 4)
    assert "".join(text[word.start : word.end] for word in found) == "".join(text.split())
    assert all(text[word.start : word.end].strip() == text[word.start : word.end] for word in found)
