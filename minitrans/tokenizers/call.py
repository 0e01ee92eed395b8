"""What happens in `tokenizer(texts, ...)`: the texts, the plan for their lengths, the encoding, the fields."""

from __future__ import annotations

import operator
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from minitrans.files import printable
from minitrans.tokenizers.guards import fault, is_panic

PADDING = ("longest", "max_length", "do_not_pad")
TRUNCATION = ("longest_first", "only_first", "only_second", "do_not_truncate")
SIDES = ("right", "left")
LARGEST_LIMIT = int(1e20)  # a model_max_length above this means "no limit"

# The lengths of a call are state of the backend, so calls take turns. A fork takes its turn too: a child finds the lock free
# and the backend whole, whatever other threads were doing.
TURN = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=TURN.acquire, after_in_parent=TURN.release, after_in_child=TURN.release)


def kind_of(value: object) -> str:
    """A value as an error shows it."""
    return f"{type(value).__name__} {printable(repr(value), 60)}"


def _is_several(value: object, split: bool) -> bool:
    """Whether a value is several texts, not one; one is a str, or a list of words if `split`."""
    return isinstance(value, list | tuple) and (not split or (bool(value) and isinstance(value[0], list | tuple)))


def _text(value: Any, where: str, split: bool) -> Any:
    """A text, or its list of words if `split`; anything else is a TypeError that says where it stood."""
    wanted = "a list of words (is_split_into_words=True)" if split else "a text (str)"
    if split and isinstance(value, list | tuple):
        others = [word for word in value if not isinstance(word, str)]
        if not others:
            return list(value)
        wanted, value = "words", others[0]
    elif isinstance(value, str) and not split:
        return value
    raise TypeError(f"{where}: expected {wanted}, got {kind_of(value)}")


def _text_or_pair(value: Any, where: str, split: bool) -> Any:
    if not _is_several(value, split):
        return _text(value, where, split)
    if len(value) != 2:
        words = "for words pass is_split_into_words=True"
        raise TypeError(
            f"{where}: expected a text or a pair of texts, got {kind_of(value)} of length {len(value)}; {words}"
        )
    return _text(value[0], f"{where}[0]", split), _text(value[1], f"{where}[1]", split)


def as_batch(text: Any, text_pair: Any, split: bool) -> tuple[list[Any], bool]:
    """The batch as the backend takes it, and whether the caller gave a batch.

    Raises:
        TypeError: if something that must be a text, or a list of words, is not.
        ValueError: if the batch is empty or the two sides differ in length.
    """
    if not _is_several(text, split):
        first = _text(text, "text", split)
        second = None if text_pair is None else _text(text_pair, "text_pair", split)
        # An empty second text is none here, though not in a batch: the reference's rule, and its ids.
        return ([(first, second)] if second else [first]), False
    if not text:
        raise ValueError("text: expected at least one text, got an empty list")
    if text_pair is None:
        return [_text_or_pair(value, f"text[{i}]", split) for i, value in enumerate(text)], True
    if not isinstance(text_pair, list | tuple):
        raise TypeError(f"text_pair: expected a list as long as text, got {kind_of(text_pair)}")
    if len(text) != len(text_pair):
        raise ValueError(f"text_pair: expected {len(text)} of them, as text, got {len(text_pair)}")
    return [
        (_text(first, f"text[{i}]", split), _text(second, f"text_pair[{i}]", split))
        for i, (first, second) in enumerate(zip(text, text_pair, strict=True))
    ], True


@dataclass(frozen=True)
class LengthPlan:
    """What to do with lengths: `padding` and `truncation` are None or a strategy, `max_length` None if not needed."""

    padding: str | None
    truncation: str | None
    max_length: int | None
    stride: int
    pad_to_multiple_of: int | None
    padding_side: str


def _integer(least: int) -> Callable[[str, Any], int]:
    def read(name: str, value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name}: expected an integer, got {kind_of(value)}")
        if operator.index(value) < least:
            raise ValueError(f"{name}={value}: expected at least {least}")
        return operator.index(value)

    return read


def _one_of(*valid: str, switch: bool = False) -> Callable[[str, Any], str | None]:
    """One of the valid words; with a `switch` True is the first of them, and False and the last are None."""

    def read(name: str, value: Any) -> str | None:
        if switch and isinstance(value, bool):
            return valid[0] if value else None
        if value not in valid:
            error = ValueError if isinstance(value, str) else TypeError
            raise error(f"{name}={value!r}: expected {'True, False or ' * switch}one of {', '.join(valid)}")
        return None if switch and value == valid[-1] else valid[valid.index(value)]

    return read


# Argument -> how to read what was given for it; what is None was not.
_LENGTHS: dict[str, Callable[[str, Any], Any]] = {
    "padding": _one_of(*PADDING, switch=True),
    "truncation": _one_of(*TRUNCATION, switch=True),
    "max_length": _integer(0),
    "stride": _integer(0),
    "pad_to_multiple_of": _integer(1),
    "padding_side": _one_of(*SIDES),
}


def plan_lengths(asked: Mapping[str, Any], model_max_length: int, warn_once: Callable[[str, str], None]) -> LengthPlan:
    """The plan of one call, for the arguments of _LENGTHS and `pad_to_max_length`.

    As in the reference, `max_length` alone truncates, and a length that is not given is the model's. Where that has no limit
    either, nothing is padded up to it or cut, which is said once.

    Raises:
        TypeError, ValueError: naming the argument that is of the wrong type, unknown, or cannot be obeyed.
    """
    found = {name: read(name, asked[name]) for name, read in _LENGTHS.items() if asked.get(name) is not None}
    pad, cut, limit = found.get("padding"), found.get("truncation"), found.get("max_length")
    multiple = found.get("pad_to_multiple_of")
    if limit is not None and asked.get("padding") is False and asked.get("truncation") is None:
        cut = TRUNCATION[0]
    if asked.get("pad_to_max_length") and asked.get("padding") is False:
        pad = "longest" if limit is None else "max_length"
    if asked.get("padding") is True and limit is not None and cut is None:
        what = "max_length has no effect with padding=True and no truncation; to pad up to it pass padding='max_length'"
        warnings.warn(what, UserWarning, stacklevel=4)  # the caller of the tokenizer
    if limit is None and (pad == "max_length" or cut is not None):
        if model_max_length > LARGEST_LIMIT:
            idle = " and ".join(
                each for each, on in (("padding='max_length'", pad == "max_length"), ("truncation", cut)) if on
            )
            warn_once(
                "limit", f"the tokenizer has no model_max_length and max_length was not given: {idle} has no effect"
            )
            pad, cut = None if pad == "max_length" else pad, None
        else:
            limit = model_max_length
    if cut and pad and multiple and limit is not None and limit % multiple:
        what = f"is not a multiple of pad_to_multiple_of={multiple}, but both truncate and pad"
        raise ValueError(f"max_length={limit} {what}")
    return LengthPlan(pad, cut, limit, found.get("stride", 0), multiple, found["padding_side"])


def encode_batch(
    backend: Backend,
    batch: list[Any],
    plan: LengthPlan,
    truncation_side: str,
    pad: Mapping[str, Any],
    *,
    specials: bool,
    split: bool,
    split_specials: bool,
    name: str,
) -> list[Encoding]:
    """The encodings of a batch; the backend is left as it was.

    Args:
        backend: the vocabulary and its pipeline.
        batch: as `as_batch` made it.
        plan: what to do with lengths.
        truncation_side: where to cut.
        pad: the pad token, its id and type.
        specials: whether to put special tokens round the texts.
        split: whether the texts are lists of words.
        split_specials: whether special tokens inside a text are text.
        name: the checkpoint to blame.

    Raises:
        ValueError: if a text is no Unicode or the lengths cannot be obeyed.
        CheckpointError: if the vocabulary of the checkpoint `name` fails at the text.
    """
    for what in _faults_of_room(backend, batch, plan, specials):
        raise ValueError(what)
    with TURN:
        try:
            backend.encode_special_tokens = split_specials
            if plan.truncation is not None and plan.max_length is not None:
                how = {"strategy": plan.truncation, "direction": truncation_side}
                backend.enable_truncation(plan.max_length, stride=plan.stride, **how)
            if plan.padding is not None:
                length = plan.max_length if plan.padding == "max_length" else None
                multiple = plan.pad_to_multiple_of
                backend.enable_padding(direction=plan.padding_side, length=length, pad_to_multiple_of=multiple, **pad)
            return backend.encode_batch(batch, add_special_tokens=specials, is_pretokenized=split)
        except BaseException as error:
            if not (isinstance(error, Exception) or is_panic(error)):
                raise
            raise _refusal(error, batch, plan, name) from None
        finally:
            backend.no_truncation()
            backend.no_padding()
            backend.encode_special_tokens = False


def _refusal(error: BaseException, batch: list[Any], plan: LengthPlan, name: str) -> ValueError:
    """The error for what the backend raised: the caller's if a text or a length is at fault, else the vocabulary's."""
    limit = f"max_length={plan.max_length}"
    for text in _texts(batch):
        if half := re.search(r"[\ud800-\udfff]", text):  # no character, and without UTF-8
            what = f"character {half.start()} is half of a surrogate pair; decode the text with errors='replace'"
            return ValueError(f"text {printable(repr(text), 60)}: {what}")
    if "Truncation" in str(error):
        what = "the text it may shorten is too short; use truncation='longest_first' or a larger max_length"
        return ValueError(f"truncation={plan.truncation!r} cannot reach {limit}: {what}")
    if plan.truncation and "stride" in str(error):
        what = f"keeps fewer tokens than that at {limit}; use a smaller stride or a larger max_length"
        return ValueError(f"stride={plan.stride}: a truncated text {what}")
    return fault(name, f"cannot encode: {printable(error, 200)}")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    else:
        for part in value:
            yield from _texts(part)


def _faults_of_room(backend: Backend, batch: list[Any], plan: LengthPlan, specials: bool) -> Iterator[str]:
    """Says if a truncated text or pair cannot hold its special tokens and the stride."""
    if plan.truncation is None or plan.max_length is None:
        return
    for pair in {isinstance(item, tuple) for item in batch}:
        added = backend.num_special_tokens_to_add(pair) if specials else 0
        room = plan.max_length - added
        if room < 0 or plan.max_length == 0:
            yield f"max_length={plan.max_length}: too small, {added} special tokens and a text must fit"
        if plan.stride and plan.stride >= room:
            what = f"which is max_length={plan.max_length} without {added} special tokens"
            yield f"stride={plan.stride}: expected less than {room}, {what}"


# Field -> the argument that asks for it (input_ids are always there) and how to read it.
FIELDS: dict[str, tuple[str, Callable[[Encoding], Any]]] = {
    "input_ids": ("", lambda row: row.ids),
    "token_type_ids": ("return_token_type_ids", lambda row: row.type_ids),
    "attention_mask": ("return_attention_mask", lambda row: row.attention_mask),
    "special_tokens_mask": ("return_special_tokens_mask", lambda row: row.special_tokens_mask),
    "offset_mapping": ("return_offsets_mapping", lambda row: row.offsets),
    "length": ("return_length", len),
}


def returned_fields(asked: Mapping[str, Any], input_names: Sequence[str]) -> dict[str, Callable[[Encoding], Any]]:
    """The fields a call returns, each with its reader; those not asked for (None) are returned if the model takes them."""
    taken = {"token_type_ids", "attention_mask"} & set(input_names)
    wanted = {name: asked.get(argument) for name, (argument, _) in FIELDS.items()} | {"input_ids": True}
    wanted |= {name: True for name in taken if wanted[name] is None}
    return {name: read for name, (_, read) in FIELDS.items() if wanted[name]}
