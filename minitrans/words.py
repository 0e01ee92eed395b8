"""The words that scripts written for `transformers` pass: what each does here, or what to do instead, as rows of tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from minitrans.errors import NotSupportedError
from minitrans.files import printable


class Word(NamedTuple):
    """One word.

    Attributes:
        note: what it does, why it does nothing, or what to do instead.
        ours: the option that it sets; None where it sets none.
        means: from its value to ours.
        harmless: without an option, the values that ask for nothing; None = all.
    """

    note: str
    ours: str | None = None
    means: Callable[[Any], Any] = lambda value: value
    harmless: tuple[object, ...] | None = None


def ignored(why: str) -> Word:
    """A word that asks for nothing, whatever its value."""
    return Word(why)


def refused(instead: str, *harmless: object) -> Word:
    """A word that only None and the `harmless` values may go with; the error says what to do `instead`."""
    return Word(instead, harmless=(None, *harmless))


def read_words(
    table: Mapping[str, Word], words: Mapping[str, Any], where: str, given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options that words set, besides those that are `given`, and the words that the table does not know.

    Raises:
        NotSupportedError: for a value that cannot be meant here, saying what to do.
        ValueError: where two words set one option.
    """
    options = {name: value for name, value in given.items() if value is not None}
    rest = {}
    for name, value in words.items():
        if name not in table:
            rest[name] = value
            continue
        word = table[name]
        if word.ours is None:
            if word.harmless is not None and not any(value is each or _equal(value, each) for each in word.harmless):
                raise NotSupportedError(f"{where}: {name}={printable(repr(value))} is not offered: {word.note}")
        elif value is not None:
            if word.ours in options:
                raise ValueError(f"{where}: give {word.ours} or {name}, got both")
            options[word.ours] = word.means(value)
    return options, rest


def _equal(value: object, other: object) -> bool:
    return type(value) is type(other) and value == other
