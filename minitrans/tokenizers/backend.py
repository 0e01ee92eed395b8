"""The one door to the `tokenizers` library: its refusals and its panics become our errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from minitrans.errors import CheckpointError
from minitrans.files import printable

_PROBE = ("Hello, wörld! 你好 \U0001f917 <mask>", "a  b")


def is_panic(error: BaseException) -> bool:
    """Whether `error` is a panic of Rust code, which is not an `Exception`."""
    return type(error).__name__ == "PanicException"


@contextmanager
def blamed_on(origin: object) -> Iterator[None]:
    """Turns whatever the library raises inside the block into a CheckpointError that names the file `origin`."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{printable(origin)}: the tokenizers library refused it: {printable(error, 200)}"
        ) from None
    except BaseException as error:
        if not is_panic(error):
            raise
        raise CheckpointError(
            f"{printable(origin)}: the tokenizers library panicked on it: {printable(error, 200)}"
        ) from None


def probe(backend: Backend, origin: object) -> None:
    """Encodes a short pair once, so that a vocabulary which fails at the first text fails when it is loaded."""
    with blamed_on(origin):
        backend.encode(*_PROBE)


def token_and_id(backend: Backend, token: str) -> tuple[str, int]:
    """A token of the vocabulary with its id."""
    index = backend.token_to_id(token)
    assert index is not None, f"{token!r} must be declared before it is used"
    return token, index


def added_tokens(backend: Backend) -> dict[int, AddedToken]:
    """The tokens that are matched in the text before the model sees it, by id."""
    return dict(sorted(backend.get_added_tokens_decoder().items()))


def require_dense_ids(vocabulary: dict[str, int], origin: object) -> None:
    """Raises CheckpointError unless the ids are 0 .. n-1, each once: in a hole the next added token takes a used id."""
    owner: dict[int, str] = {}
    for token, index in vocabulary.items():
        if type(index) is not int or not 0 <= index < 2**31:
            raise CheckpointError(
                f"{printable(origin)}: {printable(token)!r}: expected an id from 0 to 2^31 - 1, found {printable(index)}"
            )
        if index in owner:
            raise CheckpointError(
                f"{printable(origin)}: {printable(token)!r}: expected an id of its own, found id {index}, "
                f"which belongs to {printable(owner[index])!r}"
            )
        owner[index] = token
    if not owner:
        raise CheckpointError(f"{printable(origin)}: expected a vocabulary, found no token")
    last = max(owner)
    if last >= len(owner):
        hole = next(index for index in range(len(owner)) if index not in owner)
        raise CheckpointError(
            f"{printable(origin)}: {printable(owner[last])!r}: expected ids 0 to {len(owner) - 1} without holes, "
            f"found id {last} but no id {hole}"
        )
