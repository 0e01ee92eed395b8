"""The span of a text that answers a question (Devlin et al. 2019, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Encoding
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minitrans.models.auto import AutoModelForQuestionAnswering
from minitrans.pipelines.base import Each, Pipeline, Row, rows_of
from minitrans.pipelines.token_classification import without_space

CANDIDATES = 1000  # spans that are looked at for the best few; the others are less likely than all of these


@dataclass(frozen=True)
class Window:
    """A part of a context that was read with the question.

    Attributes:
        encoding: of the question and the part.
        context: (T) True at the tokens of the part.
        scores: (T, 2) of every token as the first and as the last of the answer.
    """

    encoding: Encoding
    context: Tensor
    scores: Tensor


class QuestionAnswering(Pipeline):
    """`pipe(question="Where was she born?", context="Ada was born in London.")` -> {"score", "start", "end", "answer"}."""

    auto_class = AutoModelForQuestionAnswering
    head = "question-answering head"

    def __call__(self, inputs: Any = None, *, question: Any = None, context: Any = None, **options: Any) -> Any:
        """See `run`. One question gives its result alone, and so does a list of one, as the reference has it.

        Args:
            inputs: {"question": ..., "context": ...}, a list of them, or a stream, see `Pipeline`; or else:
            question: one, or several.
            context: one for all questions, or one for each.
            options: those of `run`, `batch_size` and `progress`.
        """
        if inputs is None:
            questions = [question] if isinstance(question, str) else question or []
            contexts = [context] * len(questions) if isinstance(context, str) else context or []
            inputs = [{"question": q, "context": c} for q, c in zip(questions, contexts, strict=True)]
        found = super().__call__(inputs, **options)
        return found[0] if isinstance(inputs, list) and len(found) == 1 else found

    def run(
        self,
        inputs: list[Mapping[str, str]],
        each: Each,
        *,
        top_k: int = 1,
        doc_stride: int | None = None,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        handle_impossible_answer: bool = False,
        align_to_words: bool = True,
        joint: bool = False,
    ) -> list[Any]:
        """For each question the best answer, or a list of the `top_k` best.

        Args:
            inputs: {"question": ..., "context": ...}.
            each: runs the model.
            top_k: how many answers.
            doc_stride: tokens that two windows of a long context share; None = 128, or half of what there is room for.
            max_answer_len: tokens of the longest answer.
            max_seq_len: tokens of a window with its question; None = 384, or the most that the model takes.
            handle_impossible_answer: whether the empty answer, which the first token stands for in every window, is one: in the
                window where it is least likely (Devlin et al. 2019, section 4.3).
            align_to_words: whether an answer is made of whole words.
            joint: instead of the product of a first and a last token's probability, each within its window, a score is the
                probability of the span among all spans of the context; answers do not overlap, and come in a list.
        """
        for name, value in (("top_k", top_k), ("max_answer_len", max_answer_len)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        length = min(self.max_length, 384) if max_seq_len is None else max_seq_len
        parts = [self._windows(item["question"], item["context"], length, doc_stride) for item in inputs]
        scores = iter(each([row for part in parts for _, row in part], self._scores, lambda _, scores: scores))
        found: list[Any] = []
        for item, part in zip(inputs, parts, strict=True):
            windows = [_window(encoding, next(scores)) for encoding, _ in part]
            if joint:
                found.append(best_spans(item["context"], windows, max_answer_len, top_k, handle_impossible_answer))
                continue
            answers = self._answers(
                item["context"], windows, top_k, max_answer_len, handle_impossible_answer, align_to_words
            )
            found.append(answers[0] if len(answers) == 1 else answers)
        return found

    def _windows(self, question: str, context: str, length: int, stride: int | None) -> list[tuple[Encoding, Row]]:
        for name, text in (("question", question), ("context", context)):
            if not text:
                raise ValueError(f"{name}: expected a text, got an empty one")
        if length > self.max_length:
            raise ValueError(f"max_seq_len: expected at most the model's {self.max_length}, got {length}")
        asked = len(self.tokenizer(question, add_special_tokens=False, verbose=False)["input_ids"])
        room = length - asked - self.tokenizer.num_special_tokens_to_add(pair=True)
        if room < 1:
            raise ValueError(f"question: expected one that leaves room in {length} tokens, found {asked} tokens")
        stride = min(length // 2, 128, room // 2) if stride is None else stride
        if not 0 <= stride < room:
            raise ValueError(
                f"doc_stride: expected 0 to {room - 1}, of windows of {room} tokens of the context, got {stride}"
            )
        windows = self.tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=length,
            stride=stride,
            return_overflowing_tokens=True,
        )
        return [(windows[number], row) for number, row in enumerate(rows_of(windows))]

    def _scores(self, **fields: Tensor) -> Tensor:
        out = self.model(**fields)
        return torch.stack([out.start_logits, out.end_logits], dim=-1)  # (B, T, 2)

    def _answers(
        self, text: str, windows: Sequence[Window], top_k: int, longest: int, with_none: bool, align: bool
    ) -> list[dict[str, Any]]:
        answers: dict[str, dict[str, Any]] = {}
        nothing = 1.0
        for window in windows:
            allowed = window.context | (torch.tensor(window.encoding.ids) == self.tokenizer.cls_token_id)  # (T)
            first, last = window.scores.masked_fill(~allowed.unsqueeze(-1), -1e4).softmax(0).unbind(-1)  # (T) each
            nothing = min(nothing, float(first[0] * last[0]))
            first[0] = last[0] = 0
            spans = (first.unsqueeze(-1) * last).triu().tril(longest - 1)  # (T, T)
            best = spans.flatten().topk(min(2 * top_k + 10 if align else top_k, spans.numel()))
            for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                begin, end = divmod(place, len(first))
                if score > 0 and allowed[begin] and allowed[end]:
                    start, stop = _characters(window.encoding, begin, end, align)
                    answer = {"score": 0.0, "start": start, "end": stop, "answer": text[start:stop]}
                    answers.setdefault(text[start:stop].lower(), answer)["score"] += score
        empty = [{"score": nothing, "start": 0, "end": 0, "answer": ""}] if with_none else []
        return sorted([*answers.values(), *empty], key=lambda answer: -answer["score"])[:top_k]


def best_spans(
    text: str, windows: Sequence[Window], longest: int, top_k: int, with_none: bool = False
) -> list[dict[str, Any]]:
    """The most probable spans of at most `longest` tokens that do not overlap, and with `with_none` the empty answer.

    The probability is the softmax of first + last score over all spans; that of a span that stands in several windows is the
    sum. The empty answer scores as the first token does in the window where that is least.
    """
    if not any(bool(window.context.any()) for window in windows):  # a text of which the tokenizer keeps nothing
        return []
    masked = [window.scores.masked_fill(~window.context.unsqueeze(-1), float("-inf")) for window in windows]
    starts, ends = pad_sequence(masked, batch_first=True, padding_value=float("-inf")).unbind(-1)  # (windows, T) each
    length = starts.shape[1]
    width = min(longest, length)
    # (windows, T, width): entry w is the span of w + 1 tokens
    padded = torch.nn.functional.pad(ends, (0, width - 1), value=float("-inf"))
    spans = (starts.unsqueeze(-1) + padded.unfold(1, width, 1)).flatten()
    nothing = min(float(window.scores[0].sum()) for window in windows) if with_none else float("-inf")
    every = torch.cat([spans, spans.new_tensor([nothing])]).softmax(dim=0)
    probabilities, empty = every[:-1], float(every[-1])
    chosen: list[dict[str, Any]] = [{"score": empty, "start": 0, "end": 0, "answer": ""}] if with_none else []
    best = probabilities.topk(min(CANDIDATES, probabilities.numel()))
    totals: dict[tuple[int, int], float] = {}
    for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        row, token, more = index // (length * width), index // width % length, index % width
        if probability == 0.0:
            break
        start, end = _characters(windows[row].encoding, token, token + more, align=False)
        span = without_space(text, start, end), end
        if span[0] < span[1]:
            totals[span] = totals.get(span, 0.0) + probability
    for (start, end), score in sorted(totals.items(), key=lambda item: (-item[1], item[0])):
        if len(chosen) <= top_k and all(end <= other["start"] or start >= other["end"] for other in chosen):
            chosen.append({"score": score, "start": start, "end": end, "answer": text[start:end]})
    return sorted(chosen, key=lambda answer: -answer["score"])[:top_k]


def _window(encoding: Encoding, scores: Tensor) -> Window:
    context = torch.tensor([part == 1 for part in encoding.sequence_ids])
    return Window(encoding, context, scores[: len(context)])


def _characters(encoding: Encoding, first: int, last: int, align: bool) -> tuple[int, int]:
    """Where the text of the tokens first .. last begins and ends, or that of their words."""
    ends = (first, last)
    words = [encoding.word_ids[token] for token in ends] if align else []
    pieces: Any = [encoding.word_to_chars(word, 1) for word in words if word is not None]
    if len(pieces) < 2 or None in pieces:  # some tokenizers know no words
        pieces = [encoding.offsets[token] for token in ends]
    return pieces[0][0], pieces[1][1]
