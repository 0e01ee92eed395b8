"""The texts of a call: one or many, single or in pairs, whole or already split into words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minitrans.files import printable


def _kind(value: object) -> str:
    return f"{type(value).__name__} {printable(repr(value), 60)}"


def _words(value: object, where: str) -> list[str]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{where}: expected a list of words (is_split_into_words=True), got {_kind(value)}")
    for word in value:
        if not isinstance(word, str):
            raise TypeError(f"{where}: expected words, got {_kind(word)} among them")
    return list(value)


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{where}: expected a text (str), got {_kind(value)}")
    return value


def _item(value: object, where: str, split: bool) -> Any:
    """One element of a batch: a text, or a pair of texts."""
    if split:
        if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple):
            if len(value) != 2:
                raise TypeError(f"{where}: expected a pair of word lists, got {len(value)} of them")
            return _words(value[0], f"{where}[0]"), _words(value[1], f"{where}[1]")
        return _words(value, where)
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise TypeError(
                f"{where}: expected a text or a pair of texts, got {_kind(value)} of length {len(value)}; "
                "for words pass is_split_into_words=True"
            )
        return _text(value[0], f"{where}[0]"), _text(value[1], f"{where}[1]")
    return _text(value, where)


def as_batch(text: object, text_pair: object, split: bool) -> tuple[list[Any], bool]:
    """The batch as the backend takes it, and whether the caller gave a batch.

    Raises:
        TypeError: if something that must be a text, or a list of words, is not.
        ValueError: if the batch is empty or the two sides differ in length.
    """
    if split:
        if not isinstance(text, list | tuple):
            raise TypeError(f"text: expected a list of words (is_split_into_words=True), got {_kind(text)}")
        batched = bool(text) and isinstance(text[0], list | tuple)
    else:
        batched = isinstance(text, list | tuple)
    if not batched:
        check = _words if split else _text
        first = check(text, "text")
        if text_pair is None:
            return [first], False
        second = check(text_pair, "text_pair")
        # An empty second text is none here, though not in a batch: the reference's rule, and its ids.
        return ([(first, second)] if second else [first]), False
    assert isinstance(text, Sequence)
    if not text:
        raise ValueError("text: expected at least one text, got an empty list")
    if text_pair is None:
        return [_item(value, f"text[{i}]", split) for i, value in enumerate(text)], True
    if not isinstance(text_pair, list | tuple):
        raise TypeError(f"text_pair: expected a list as long as text, got {_kind(text_pair)}")
    if len(text) != len(text_pair):
        raise ValueError(f"text_pair: expected {len(text)} of them, as text, got {len(text_pair)}")
    check = _words if split else _text
    return [
        (check(first, f"text[{i}]"), check(second, f"text_pair[{i}]"))
        for i, (first, second) in enumerate(zip(text, text_pair, strict=True))
    ], True


def require_unicode(batch: object) -> None:
    """Raises ValueError if a text holds half of a surrogate pair, which is no character and has no UTF-8."""
    pending = [batch]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            for position, character in enumerate(value):
                if "\ud800" <= character <= "\udfff":
                    raise ValueError(
                        f"text {printable(repr(value), 60)}: character {position} is half of a surrogate pair; "
                        "decode the text with errors='replace'"
                    )
        elif isinstance(value, list | tuple):
            pending.extend(reversed(value))
