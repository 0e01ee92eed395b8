"""From the classes of tokens to spans of characters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
    best: dict[int, tuple[int, Span]] = {}  # first character of a word -> how far it is from an edge, the word
    for window in range(len(labels)):
        words = [index for index, word in enumerate(encoded.word_ids(window)) if word is not None]
        for group in _words(words, encoded.word_ids(window)):
            start, end = (
                int(encoded["offset_mapping"][window, group[0], 0]),
                int(encoded["offset_mapping"][window, group[-1], 1]),
            )
            start += len(text[start:end]) - len(text[start:end].lstrip())
            if start >= end:
                continue
            room = min(group[0] - words[0], words[-1] - group[-1])
            label = names[int(labels[window, group[0]])]
            if start not in best or room > best[start][0]:
                best[start] = (room, Span(label, start, end, float(scores[window, group[0]])))
    return [best[start][1] for start in sorted(best)]


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


def _words(tokens: list[int], words: list[int | None]) -> list[list[int]]:
    """The tokens of each word, in order."""
    groups: dict[int | None, list[int]] = {}
    for token in tokens:
        groups.setdefault(words[token], []).append(token)
    return list(groups.values())
