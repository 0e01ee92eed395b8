"""From the classes of tokens to spans of characters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import torch

from minitrans.cli.labels import require_finite
from minitrans.cli.loading import Loaded


@dataclass(frozen=True)
class Span:
    """The characters start .. end-1 of a text, what they are, and how sure the model is."""

    label: str
    start: int
    end: int
    score: float


@torch.inference_mode()
def tagged_words(loaded: Loaded, text: str, names: Mapping[int, str], batch_size: int) -> list[Span]:
    """The words of a text, each with the class and the probability of its first token.

    A text that is too long is cut into windows that share a quarter of their tokens; a word counts in the window in which
    it is farthest from the edges, where its context is.
    """
    tokenizer, model = loaded.tokenizer, loaded.model
    encoded = tokenizer(
        text, truncation=True, max_length=loaded.max_length, stride=loaded.max_length // 4,
        return_overflowing_tokens=True, return_offsets_mapping=True, padding=True, return_tensors="pt",
    )  # fmt: skip
    fields = {name: value for name, value in encoded.items() if name in tokenizer.model_input_names}
    rows = [
        model(**{name: value[start : start + batch_size].to(model.device) for name, value in fields.items()}).logits
        for start in range(0, len(encoded["input_ids"]), batch_size)
    ]
    logits = torch.cat(rows).to("cpu", torch.float64)  # (windows, T, C)
    require_finite(logits)
    scores, labels = logits.softmax(dim=-1).max(dim=-1)  # (windows, T)
    words: dict[int, _Word] = {}
    for window, ids in enumerate(map(encoded.word_ids, range(len(labels)))):
        tokens = [token for token, word in enumerate(ids) if word is not None]
        for token in tokens:
            start, end = encoded["offset_mapping"][window, token].tolist()
            room = min(token - tokens[0], tokens[-1] - token)
            label, score = names[int(labels[window, token])], float(scores[window, token])
            words.setdefault(cast("int", ids[token]), _Word(start)).see(start, end, room, label, score)
    return [word.span(text) for _, word in sorted(words.items()) if text[word.start : word.end].strip()]


@dataclass
class _Word:
    """A word as it grows, token by token and window by window; its first token, in its best window, decides the class."""

    start: int
    end: int = 0
    room: int = -1
    label: str = ""
    score: float = 0.0

    def see(self, start: int, end: int, room: int, label: str, score: float) -> None:
        """One more token, its distance from the edges of its window, and what the model says of it."""
        if start == self.start and room > self.room:
            self.room, self.label, self.score = room, label, score
        self.end = end

    def span(self, text: str) -> Span:
        """The word, and where it is."""
        return Span(self.label, without_space(text, self.start, self.end), self.end, self.score)


def without_space(text: str, start: int, end: int) -> int:
    """Where the text of a token begins: some vocabularies count the space before a word as a part of it."""
    return start + len(text[start:end]) - len(text[start:end].lstrip())


def word_spans(words: Iterable[Span]) -> list[Span]:
    """Words of one entity as one span (B-X I-X I-X), classes without B- and I- word by word, the class O left out.

    An I-X that does not follow its like begins a span. The score of a span is the mean of its words' scores.
    """
    spans: list[list[Span]] = []
    open_class: str | None = None
    for word in words:
        if word.label == "O":
            open_class = None
            continue
        prefix, _, kind = word.label.partition("-")
        if prefix not in ("B", "I") or not kind:
            prefix, kind = "B", word.label
        if prefix == "I" and open_class == kind:
            spans[-1].append(word)
        else:
            spans.append([Span(kind, word.start, word.end, word.score)])
        open_class = kind
    return [
        Span(span[0].label, span[0].start, span[-1].end, sum(word.score for word in span) / len(span)) for span in spans
    ]
