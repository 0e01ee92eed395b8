"""From rows of text to examples of token ids and labels, with a tokenizer; what a row gets wrong is said with its place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from minitrans.files import printable
from minitrans.layers.losses import IGNORED
from minitrans.training.data.records import Record, Records
from minitrans.training.data.source import Document, Example, Examples, Sentence

AT_ONCE = 1024  # texts that the tokenizer is given together


class Window(NamedTuple):
    """What finds an answer in a window: the number of its row, and of every token the characters of the context, start and
    end; (-1, -1) for tokens of the question and special ones.
    """

    record: int
    offsets: list[tuple[int, int]]


class Windows(Examples):
    """Examples that are windows.

    Args:
        windows: one an example.
        examples: as of any `Examples`.
        places: as of any `Examples`.
        name: as of any `Examples`.
    """

    def __init__(self, windows: list[Window], examples: list[Example], places: list[str], name: str) -> None:
        super().__init__(examples, places, name)
        self.windows = windows


def label_names(records: Records, column: str) -> list[str]:
    """The classes that a column names, or the tags that its lists do, in order of the alphabet."""
    found: set[str] = set()
    for value in records.column(column, (str, int, list)):
        found.update(map(str, value) if isinstance(value, list) else [str(value)])
    return sorted(found)


def encode_texts(
    records: Records,
    tokenizer: Any,
    text: str = "text",
    pair: str | None = None,
    *,
    label: str | None = None,
    names: Sequence[str] | None = None,
    max_length: int | None = None,
) -> Examples:
    """Texts, or pairs of them, for a classifier or a regression, or without labels.

    Args:
        records: the rows.
        tokenizer: with the model's vocabulary.
        text: the column of the text.
        pair: that of a second one.
        label: that of the label.
        names: of the classes, label 0 first; None = the labels are numbers, of a regression.
        max_length: tokens that are left of a longer text; None = the tokenizer's limit.

    Raises:
        ValueError: naming the row that has no such column, or another label.
    """
    firsts = records.column(text)
    seconds = None if pair is None else records.column(pair)
    examples = list(_encoded(tokenizer, firsts, seconds, truncation=True, max_length=max_length))
    if label is not None:
        labels = records.map(lambda row: _label(row, label, names))
        for example, value in zip(examples, labels, strict=True):
            example["labels"] = value
    return _placed(examples, records)


def encode_words(
    records: Records,
    tokenizer: Any,
    words: str = "words",
    tags: str = "tags",
    *,
    names: Sequence[str],
    max_length: int | None = None,
) -> Examples:
    """Tagged words for a token classifier: a word's first token has its label, every other token none.

    Args:
        records: rows of words and their tags (names, or numbers of them).
        tokenizer: with the model's vocabulary.
        words: the column of the words.
        tags: that of the tags.
        names: of the tags, label 0 first.
        max_length: as in `encode_texts`; labels of what is cut off are lost.

    Raises:
        ValueError: naming the row with as many tags as it has no words, or one that has another name.
    """
    labels = records.map(lambda row: _tags(row, words, tags, names))
    examples = []
    options = {"is_split_into_words": True, "truncation": True, "max_length": max_length}
    texts = records.column(words, list)
    for start in range(0, len(texts), AT_ONCE):
        batch = tokenizer([list(each) for each in texts[start : start + AT_ONCE]], **options)
        for row, of_words in enumerate(labels[start : start + AT_ONCE]):
            ids, before = batch.word_ids(row), [None, *batch.word_ids(row)]
            starts = [word is not None and word != last for word, last in zip(ids, before, strict=False)]
            found = [of_words[word] if first else IGNORED for word, first in zip(ids, starts, strict=True)]
            examples.append({**_row(batch, row), "labels": found})
    return _placed(examples, records)


def encode_questions(records: Records, tokenizer: Any, *, max_length: int = 384, stride: int = 128) -> Windows:
    """Questions about contexts for an extractive answerer, in windows that overlap (Devlin et al. 2019, section 4.2).

    Every window is an example; in one without the whole first answer, the answer is token 0.

    Args:
        records: rows of `question`, `context` and `answers`, as `read_squad` gives them.
        tokenizer: with the model's vocabulary.
        max_length: tokens of a window with its question.
        stride: tokens of the context that two windows share.

    Raises:
        ValueError: naming the row that is something else.
    """
    questions, contexts = records.column("question"), records.column("context")
    answers = records.map(_answer)
    examples, places, windows = [], [], []
    for number, (question, context) in enumerate(zip(questions, contexts, strict=True)):
        batch = tokenizer(
            [question.strip()], [context], truncation="only_second", max_length=max_length, stride=stride,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        for row, offsets in enumerate(batch["offset_mapping"]):
            inside = [part == 1 for part in batch.sequence_ids(row)]
            spans = [(span[0], span[1]) if here else (-1, -1) for span, here in zip(offsets, inside, strict=True)]
            first, last = _tokens_of(spans, answers[number])
            example = {name: list(values[row]) for name, values in batch.items() if name in INPUTS}
            examples.append({**example, "start_positions": first, "end_positions": last})
            windows.append(Window(number, spans))
            places.append(records.where(number))
    return Windows(windows, examples, places, records.name)


def encode_pairs(
    records: Records,
    tokenizer: Any,
    source: str = "source",
    target: str = "target",
    *,
    max_length: int | None = None,
    max_target_length: int | None = None,
    prefix: str = "",
) -> Examples:
    """Sources and targets for a pair of encoder and decoder: `input_ids` and `labels`.

    Args:
        records: the rows.
        tokenizer: with the model's vocabulary; targets are read as its `text_target`.
        source: the column of what the encoder reads.
        target: that of what the decoder writes.
        max_length: tokens that are left of a longer source.
        max_target_length: of a target.
        prefix: put before every source (T5's tasks).

    Raises:
        ValueError: naming the row that has no such columns.
    """
    sources = [prefix + text for text in records.column(source)]
    examples = list(_encoded(tokenizer, sources, None, truncation=True, max_length=max_length))
    targets = records.column(target)
    for start in range(0, len(targets), AT_ONCE):
        batch = tokenizer(
            text_target=targets[start : start + AT_ONCE], truncation=True, max_length=max_target_length or max_length
        )
        for place, ids in enumerate(batch["input_ids"], start):
            examples[place]["labels"] = list(ids)
    return _placed(examples, records)


def encode_sentences(records: Records, tokenizer: Any, sentences: str = "sentences") -> list[Document]:
    """Of every document its sentences without special tokens; ones without tokens are left out."""
    documents = []
    for texts in records.column(sentences, list):
        document = []
        for start in range(0, len(texts), AT_ONCE):
            part = list(texts[start : start + AT_ONCE])
            batch = tokenizer(part, add_special_tokens=False, return_offsets_mapping=True)
            for text, ids, offsets in zip(part, batch["input_ids"], batch["offset_mapping"], strict=True):
                document.append(Sentence(list(ids), word_starts(text, offsets)))
        document = [sentence for sentence in document if sentence.ids]
        if document:
            documents.append(document)
    if not documents:
        raise ValueError(f"{records.name}: expected documents with sentences in them, found none")
    return documents


def word_starts(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Of every token of a text, given its characters, 1 where it begins a word: behind a gap, or with a blank inside it."""
    ends = [-1, *(end for _, end in offsets)]
    return [
        int(start != before or text[start : start + 1].isspace())
        for (start, _), before in zip(offsets, ends, strict=False)
    ]


INPUTS = ("input_ids", "token_type_ids", "attention_mask", "special_tokens_mask")


def _encoded(tokenizer: Any, texts: list[str], pairs: list[str] | None, **options: Any) -> Iterator[Example]:
    for start in range(0, len(texts), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        batch = tokenizer(texts[part], None if pairs is None else pairs[part], **options)
        for row in range(len(batch["input_ids"])):
            yield _row(batch, row)


def _row(batch: Mapping[str, Any], row: int) -> Example:
    """What the model reads of one text; without padding there is no mask."""
    return {name: list(values[row]) for name, values in batch.items() if name in INPUTS and name != "attention_mask"}


def _placed(examples: list[Example], records: Records) -> Examples:
    return Examples(examples, [records.where(number) for number in range(len(records))], records.name)


def _label(row: Record, label: str, names: Sequence[str] | None) -> int | float:
    value = _value(row, label)
    if names is not None:
        return class_of(value, names)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{label}: expected a number, found {printable(repr(value), 60)}")
    return number


def class_of(value: Any, names: Sequence[str]) -> int:
    """The number of a class that is given by its name, or by that number."""
    if isinstance(value, int) and 0 <= value < len(names) and str(value) not in names:
        return value
    if str(value) not in names:
        raise ValueError(f"expected a label of {printable(', '.join(names), 200)}, found {printable(repr(value), 60)}")
    return list(names).index(str(value))


def _value(row: Record, column: str) -> Any:
    if column not in row:
        raise ValueError(f"expected a field {column!r}, found {', '.join(map(printable, row))}")
    return row[column]


def _tags(row: Record, words: str, tags: str, names: Sequence[str]) -> list[int]:
    if len(_value(row, words)) != len(_value(row, tags)):
        raise ValueError(f"expected a tag for each of {len(row[words])} words, found {len(row[tags])} tags")
    return [class_of(tag, names) for tag in row[tags]]


def _answer(row: Record) -> tuple[int, int] | None:
    """The characters of the first answer; None where the context has none."""
    answers = row.get("answers") or {"text": [], "answer_start": []}
    if not isinstance(answers, Mapping) or not {"text", "answer_start"} <= set(answers):
        raise ValueError("answers: expected an object of text and answer_start")
    if not len(answers["text"]):
        return None
    start = answers["answer_start"][0]
    return start, start + len(answers["text"][0])


def _tokens_of(spans: Sequence[tuple[int, ...]], answer: tuple[int, int] | None) -> tuple[int, int]:
    """The first and last token of characters, if all of them are in the window; else token 0 twice."""
    if answer is None:
        return 0, 0
    start, end = answer
    covered = [place for place, (left, right) in enumerate(spans) if left < end and right > start and left >= 0]
    whole = covered and spans[covered[0]][0] <= start and spans[covered[-1]][1] >= end
    return (covered[0], covered[-1]) if whole else (0, 0)
