"""The two exception classes of the project; both are ValueErrors, so callers need not know them. And a word for messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class NotSupportedError(ValueError):
    """An option that this implementation does not offer was asked for; the message names one that does."""


class CheckpointError(ValueError):
    """A file of a checkpoint is not what it must be; the message names file, tensor or key, what was expected, what was found."""


def nearest(word: object, known: Iterable[str]) -> str:
    """The known word that is nearest to an unknown one, quoted, for messages that cannot list all."""
    return repr(get_close_matches(str(word)[:99], known, n=1, cutoff=0.0)[0])
