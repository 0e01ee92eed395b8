"""Classes of a text's tokens, of its words, and of the spans that these make up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from minitrans.models.auto import AutoModelForTokenClassification
from minitrans.pipelines.base import Each, Pipeline, rows_of

STRATEGIES = ("none", "simple", "first", "average", "max", "words")


@dataclass(frozen=True)
class Token:
    """One token of a text that is not special.

    Attributes:
        index: its place among all tokens of the text, special ones included.
        id: in the vocabulary.
        start, end: its characters are start .. end-1 of the text.
        word: the number of its word, None where the tokenizer knows no words.
        scores: (C) probabilities.
    """

    index: int
    id: int
    start: int
    end: int
    word: int | None
    scores: Tensor


@dataclass(frozen=True)
class Span:
    """The characters start .. end-1 of a text, what they are, and how sure the model is."""

    label: str
    start: int
    end: int
    score: float
    word: str = ""


class TokenClassification(Pipeline):
    """`pipe("Ada was born in London.", aggregation_strategy="simple")` -> [{"entity_group": "PER", "score": ..., ...}, ...]."""

    auto_class = AutoModelForTokenClassification
    head = "classifier of tokens"

    def run(
        self,
        inputs: list[str],
        each: Each,
        *,
        aggregation_strategy: str = "none",
        ignore_labels: Sequence[str] = ("O",),
        stride: int | None = None,
        grouped_entities: bool = False,
    ) -> list[Any]:
        """For each text its tokens {"entity", "score", "index", "word", "start", "end"} or, of all strategies but "none", spans
        {"entity_group", "score", "word", "start", "end"}.

        Args:
            inputs: texts.
            each: runs the model.
            aggregation_strategy: "none"; "simple": neighbouring tokens of a class are a span; "first", "average", "max": the
                same of words, whose class is that of their first token, of the mean of their tokens, or of the surest;
                "words": as "first", for the tokenizer's own words, of which only B- and I- classes make spans.
            ignore_labels: classes that are left out.
            stride: read a long text in windows that share this many tokens; None = cut it. "none" and "words" take each token
                from the window where it is farthest from the edges, the others the longest of spans that overlap, or the surest.
            grouped_entities: the old name of the strategy "simple".
        """
        if grouped_entities:
            aggregation_strategy = "simple"
        if aggregation_strategy not in STRATEGIES:
            raise ValueError(
                f"aggregation_strategy: expected one of {', '.join(STRATEGIES)}, got {aggregation_strategy!r}"
            )
        kind = "entity" if aggregation_strategy == "none" else "entity_group"
        found = []
        for text, windows in zip(inputs, self.windows(inputs, each, stride), strict=True):
            whole = [best_placed(windows)] if aggregation_strategy in ("none", "words") else windows
            rows = [row for tokens in whole for row in self._rows(text, tokens, aggregation_strategy)]
            rows = [row for row in rows if row[kind] not in ignore_labels]
            found.append(without_overlap(rows) if len(whole) > 1 else rows)
        return found

    def windows(self, texts: Sequence[str], each: Each, stride: int | None = None) -> list[list[list[Token]]]:
        """Of each text its windows, one without `stride`: their tokens with their probabilities; see `run`."""
        encoded = self.tokenizer(
            list(texts), truncation=True, max_length=self.max_length, stride=stride or 0,
            return_overflowing_tokens=stride is not None, return_offsets_mapping=True, return_special_tokens_mask=True,
        )  # fmt: skip
        rows = rows_of(encoded)
        scores = each(rows, lambda **fields: self.model(**fields).logits, lambda _, logits: logits.softmax(-1))
        found: list[list[list[Token]]] = [[] for _ in texts]
        sources = encoded.get("overflow_to_sample_mapping", range(len(rows)))
        for source, windows in groupby(range(len(rows)), key=lambda row: sources[row]):
            first = 0  # of the window's tokens, in the text
            for row in windows:
                special, words = encoded["special_tokens_mask"][row], encoded.word_ids(row)
                offsets, ids = encoded["offset_mapping"][row], rows[row]["input_ids"]
                tokens = [
                    Token(first + place, ids[place], start, end, words[place], scores[row][place])
                    for place, (is_special, (start, end)) in enumerate(zip(special, offsets, strict=True))
                    if not is_special
                ]
                found[source].append(tokens)
                first += len(tokens) - (stride or 0)
        return found

    def _rows(self, text: str, tokens: Sequence[Token], strategy: str) -> list[dict[str, Any]]:
        if strategy == "words":
            return [_entity(span, text[span.start : span.end]) for span in word_spans(self.words(text, tokens))]
        known = [self._labelled(text, [token]) for token in tokens]
        if strategy == "none":
            return [
                {"entity": of.label, "score": of.score, "index": token.index, "word": of.word, "start": of.start, "end": of.end}
                for of, token in zip(known, tokens, strict=True)
            ]  # fmt: skip
        if strategy != "simple":
            known = [self._labelled(text, word, strategy) for word in self._reference_words(text, tokens)]
        join = self.tokenizer.convert_tokens_to_string
        return [
            _entity(_joined(group, lambda label: label.partition("-")[2] or label), join([part.word for part in group]))
            for group in _groups(known, bare="I")
        ]

    def words(self, text: str, tokens: Sequence[Token]) -> list[Span]:
        """The tokenizer's words that have a character, each with the class and the probability of its first token."""
        words = [list(word) for _, word in groupby(tokens, key=lambda token: token.word)]
        spans = [self._labelled(text, word, "first") for word in words]
        return [
            Span(of.label, without_space(text, of.start, of.end), of.end, of.score)
            for of in spans
            if text[of.start : of.end].strip()
        ]

    def _reference_words(self, text: str, tokens: Sequence[Token]) -> list[list[Token]]:
        """Words as the reference has them: by the "##" of WordPiece, else by spaces."""
        by_prefix = getattr(self.tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
        words: list[list[Token]] = []
        for token in tokens:
            if by_prefix:
                goes_on = len(self._name(text, token)) != token.end - token.start
            else:
                goes_on = token.start > 0 and " " not in text[token.start - 1 : token.start + 1]
            if words and goes_on and token.id != self.tokenizer.unk_token_id:
                words[-1].append(token)
            else:
                words.append([token])
        return words

    def _labelled(self, text: str, word: Sequence[Token], strategy: str = "first") -> Span:
        """The class of a word, from those of its tokens."""
        scores = torch.stack([token.scores for token in word])  # (tokens, C)
        chosen = {
            "first": lambda: scores[0],
            "average": lambda: scores.mean(0),
            "max": lambda: scores[scores.amax(1).argmax()],
        }
        score, label = chosen[strategy]().max(0)
        names = [self._name(text, token) for token in word]
        name = names[0] if len(names) == 1 else self.tokenizer.convert_tokens_to_string(names)
        return Span(self.labels[int(label)], word[0].start, word[-1].end, float(score), name)

    def _name(self, text: str, token: Token) -> str:
        if token.id == self.tokenizer.unk_token_id:
            return text[token.start : token.end]
        name: str = self.tokenizer.convert_ids_to_tokens(token.id)
        return name


def best_placed(windows: Iterable[Sequence[Token]]) -> list[Token]:
    """Each token of a text from the window, the first of equals, where it is farthest from the edges."""
    best: dict[int, tuple[int, Token]] = {}
    for window in windows:
        for place, token in enumerate(window):
            room = min(place, len(window) - 1 - place)
            if token.index not in best or room > best[token.index][0]:
                best[token.index] = room, token
    return [token for _, (_, token) in sorted(best.items())]


def without_overlap(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of spans that overlap, from the left, the longest, of equals the surest."""
    kept: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: row["start"]):
        if not kept or row["start"] >= kept[-1]["end"]:
            kept.append(row)
        else:
            kept[-1] = max(kept[-1], row, key=lambda each: (each["end"] - each["start"], each["score"]))
    return kept


def word_spans(words: Iterable[Span]) -> list[Span]:
    """Words of one entity as one span (B-X I-X I-X), classes without B- and I- word by word, the class O left out.

    An I-X that does not follow its like begins a span. The score of a span is the mean of its words' scores.
    """
    groups = _groups(words, bare="B")
    return [_joined(group, lambda label: _parts(label, "B")[1]) for group in groups if group[0].label != "O"]


def without_space(text: str, start: int, end: int) -> int:
    """Where the text of a token begins: some vocabularies count the space before a word as a part of it."""
    return start + len(text[start:end]) - len(text[start:end].lstrip())


def _parts(label: str, bare: str) -> tuple[str, str]:
    """ "B-PER" -> ("B", "PER"); a label that has no such prefix gets `bare`."""
    prefix, _, kind = label.partition("-")
    return (prefix, kind) if prefix in ("B", "I") and kind else (bare, label)


def _groups(spans: Iterable[Span], bare: str) -> list[list[Span]]:
    """Neighbours of one class; a B- begins a group."""
    groups: list[list[Span]] = []
    for span in spans:
        prefix, kind = _parts(span.label, bare)
        if groups and prefix == "I" and _parts(groups[-1][-1].label, bare)[1] == kind:
            groups[-1].append(span)
        else:
            groups.append([span])
    return groups


def _joined(group: Sequence[Span], name: Callable[[str], str]) -> Span:
    score = sum(span.score for span in group) / len(group)
    return Span(name(group[0].label), group[0].start, group[-1].end, score)


def _entity(span: Span, word: str) -> dict[str, Any]:
    return {"entity_group": span.label, "score": span.score, "word": word, "start": span.start, "end": span.end}
