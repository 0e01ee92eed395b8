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


_HUB = "passed on to huggingface_hub"
_INTERNAL = "what the reference's classes tell each other"

# Where a checkpoint is, and how to get it.
WHERE: dict[str, Word] = {
    **{word: Word(_HUB, word) for word in ("revision", "cache_dir", "force_download", "token")},
    "use_auth_token": Word("another name of token", "token"),
    "local_files_only": Word("never ask the network", "local_files_only"),
    "subfolder": Word("the folder in the repository, or in the directory", "subfolder"),
    "proxies": refused("set the environment variables HTTP_PROXY and HTTPS_PROXY, which the hub's client honours", {}),
    "resume_download": ignored("downloads are always resumed"),
    "mirror": ignored("the reference does nothing with it any more"),
    **dict.fromkeys(("user_agent", "_commit_hash", "_from_auto", "_from_pipeline"), ignored(_INTERNAL)),
}

# What is told to a repository, whether there is a save to a folder first or not.
PUSHING: dict[str, Word] = {
    "repo_id": Word("owner/name; None = the name of the folder", "repo_id"),
    **{word: Word(_HUB, word) for word in ("commit_message", "commit_description", "token")},
    "private": Word("of a repository that is new", "private"),
    "use_auth_token": Word("another name of token", "token"),
    "revision": Word("the branch, made if it is new", "revision"),
    "create_pr": Word("propose the commit instead of making it", "create_pr"),
    "repo_url": refused("say repo_id='owner/name'"),
    "organization": refused("say repo_id='owner/name'"),
    "tags": refused("write them into the README.md of the repository"),
    "use_temp_dir": ignored("only the files of this save are uploaded"),
}
