"""What happens in `tokenizer(texts, ...)`: the texts, the plan for their lengths, the encoding, the fields, the padding."""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from minitrans.files import printable
from minitrans.tokenizers.batch_encoding import BatchEncoding
from minitrans.tokenizers.guards import fault, is_panic

PADDING = ("longest", "max_length", "do_not_pad")
TRUNCATION = ("longest_first", "only_first", "only_second", "do_not_truncate")
LARGEST_LIMIT = int(1e20)  # a model_max_length above this means "no limit"


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


def _integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an integer, got {kind_of(value)}")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name}={number}: expected at least {least}")
    return number


def _strategy(name: str, value: Any, valid: tuple[str, ...]) -> str | None:
    """The first of the valid ones if True; none if False, None or the last."""
    if value is None or isinstance(value, bool):
        return valid[0] if value else None
    if value not in valid:
        error = ValueError if isinstance(value, str) else TypeError
        raise error(f"{name}={str(value)!r}: expected True, False or one of {', '.join(valid)}")
    return None if value == valid[-1] else str(value)


def plan_lengths(
    *,
    padding: bool | str,
    truncation: bool | str | None,
    max_length: int | None,
    pad_to_multiple_of: int | None,
    padding_side: str,
    model_max_length: int,
    stride: int = 0,
    pad_to_max_length: bool = False,
) -> LengthPlan:
    """The plan of one call.

    As in the reference, `max_length` alone truncates, and a length that is not given is the model's; truncation without
    any limit does nothing, with a warning.

    Raises:
        TypeError, ValueError: naming the argument that is of the wrong type, unknown, or cannot be obeyed.
    """
    limit = None if max_length is None else _integer("max_length", max_length, 0)
    multiple = None if pad_to_multiple_of is None else _integer("pad_to_multiple_of", pad_to_multiple_of, 1)
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side={padding_side!r}: expected 'left' or 'right'")
    if limit is not None and padding is False and truncation is None:
        truncation = "longest_first"
    cut = _strategy("truncation", truncation, TRUNCATION)
    pad = _strategy("padding", padding, PADDING)
    if pad_to_max_length and padding is False:
        pad = "longest" if limit is None else "max_length"
    if padding is True and limit is not None and cut is None:
        _warn("max_length has no effect with padding=True and no truncation; to pad up to it pass padding='max_length'")
    unbounded = limit is None and model_max_length > LARGEST_LIMIT
    if unbounded and pad == "max_length":
        raise ValueError("padding='max_length': the tokenizer has no model_max_length, so pass max_length")
    if unbounded and cut is not None:
        why = "the tokenizer has no model_max_length and max_length was not given"
        _warn(f"truncation={cut!r} has no effect: {why}")
        cut = None
    if limit is None and (pad == "max_length" or cut is not None):
        limit = model_max_length
    if cut and pad and multiple and limit is not None and limit % multiple:
        what = f"is not a multiple of pad_to_multiple_of={multiple}, but both truncate and pad"
        raise ValueError(f"max_length={limit} {what}")
    return LengthPlan(pad, cut, limit, _integer("stride", stride, 0), multiple, padding_side)


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=5)  # the caller of the tokenizer


def set_lengths(backend: Backend, plan: LengthPlan, side: str, pad: Mapping[str, Any]) -> None:
    """Puts the plan's truncation (on `side`) and padding (`pad`: the pad token, its id and type) into the backend's state."""
    limit, multiple = plan.max_length, plan.pad_to_multiple_of
    backend.no_truncation()
    backend.no_padding()
    if plan.truncation is not None and limit is not None:
        backend.enable_truncation(limit, stride=plan.stride, strategy=plan.truncation, direction=side)
    if plan.padding is not None:
        length = limit if plan.padding == "max_length" else None
        backend.enable_padding(direction=plan.padding_side, length=length, pad_to_multiple_of=multiple, **pad)


def encode_batch(
    backend: Backend, batch: list[Any], plan: LengthPlan, specials: bool, split: bool, name: str
) -> list[Encoding]:
    """The encodings of a batch, the backend's lengths being set by `plan` already.

    Raises:
        ValueError: if a text is no Unicode or the lengths cannot be obeyed.
        CheckpointError: if the vocabulary of the checkpoint `name` fails at the text.
    """
    try:
        return backend.encode_batch(batch, add_special_tokens=specials, is_pretokenized=split)
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise _refusal(error, batch, plan, name) from None


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


def require_room(backend: Backend, batch: list[Any], plan: LengthPlan, specials: bool) -> None:
    """Raises ValueError if a truncated text or pair cannot hold its special tokens and the stride."""
    if plan.truncation is None or plan.max_length is None:
        return
    for pair in {isinstance(item, tuple) for item in batch}:
        added = backend.num_special_tokens_to_add(pair) if specials else 0
        room = plan.max_length - added
        if room < 0 or plan.max_length == 0:
            raise ValueError(f"max_length={plan.max_length}: too small, {added} special tokens and a text must fit")
        if plan.stride and plan.stride >= room:
            what = f"which is max_length={plan.max_length} without {added} special tokens"
            raise ValueError(f"stride={plan.stride}: expected less than {room}, {what}")


# Field -> the argument that asks for it (input_ids are always there) and how to read it.
_FIELDS: dict[str, tuple[str, Callable[[Encoding], Any]]] = {
    "input_ids": ("", lambda row: row.ids),
    "token_type_ids": ("return_token_type_ids", lambda row: row.type_ids),
    "attention_mask": ("return_attention_mask", lambda row: row.attention_mask),
    "special_tokens_mask": ("return_special_tokens_mask", lambda row: row.special_tokens_mask),
    "offset_mapping": ("return_offsets_mapping", lambda row: row.offsets),
    "length": ("return_length", len),
}
_OTHERS = {"return_overflowing_tokens", "pad_to_max_length", "verbose"}


def returned_fields(asked: Mapping[str, Any], input_names: Sequence[str]) -> dict[str, Callable[[Encoding], Any]]:
    """The fields a call returns, each with its reader; those not asked for (None) are returned if the model takes them.

    Raises:
        TypeError: if an argument is unknown.
    """
    known = {argument for argument, _ in _FIELDS.values() if argument} | _OTHERS
    for name in sorted(asked.keys() - known):
        others = ", ".join(sorted(known))
        raise TypeError(f"unexpected argument {name!r}; besides the named ones a call takes {others}")
    taken = {"token_type_ids", "attention_mask"} & set(input_names)
    wanted = {name: asked.get(argument) for name, (argument, _) in _FIELDS.items()} | {"input_ids": True}
    wanted |= {name: True for name in taken if wanted[name] is None}
    return {name: read for name, (_, read) in _FIELDS.items() if wanted[name]}


def _plain(value: Any) -> Any:
    """Tensors and arrays as lists of Python numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _tensor_type(main: Any) -> str | None:
    first = main[0] if isinstance(main, list | tuple) and main else main
    return {"torch": "pt", "numpy": "np"}.get(type(first).__module__.split(".")[0])


def pad_batch(
    encoded: Any, plan: LengthPlan, fills: Mapping[str, int | None], with_mask: bool, return_tensors: str | None
) -> BatchEncoding:
    """Pads the fields that `fills` names, which differ from row to row in length; other fields pass as they are.

    Args:
        encoded: a list of encodings (dicts), or one dict of a row or of a list of rows. It is not changed.
        plan: padding strategy, length and side; truncation plays no part.
        fills: field -> what to pad it with; the first one, input_ids, must be there.
        with_mask: whether to add an attention_mask where there is none.
        return_tensors: "pt", "np" or None (tensors in, tensors of the same kind out).

    Raises:
        TypeError, ValueError: if the encodings are of the wrong type, lack input_ids, or differ in fields or sizes.
    """
    name = next(iter(fills))
    fields = _fields_of(encoded)
    if fields.get(name) is None:
        raise ValueError(f"pad: expected the field {name!r}, got {sorted(fields)}")
    return_tensors = return_tensors or _tensor_type(fields[name])
    fields = {key: _plain(value) for key, value in fields.items()}
    main = fields[name]
    if not isinstance(main, list):
        raise TypeError(f"pad: expected a list of ids in {name!r}, got {type(main).__name__}")
    single = not main or not isinstance(main[0], list)
    counts = {key: len(value) if isinstance(value, list) else None for key, value in fields.items()}
    for key, count in counts.items():
        if not single and count != len(main):
            raise ValueError(
                f"pad: expected {len(main)} rows in {key!r}, got {fields[key] if count is None else count}"
            )
    rows = [fields] if single else [dict(zip(fields, row, strict=True)) for row in zip(*fields.values(), strict=True)]
    longest, multiple = max(len(row[name]) for row in rows), plan.pad_to_multiple_of or 1
    length = {None: 0, "longest": longest, "max_length": plan.max_length or 0}[plan.padding] if main else 0
    length = -(-length // multiple) * multiple
    for row in rows:
        if with_mask:
            row.setdefault("attention_mask", [1] * len(row[name]))
        extra = length - len(row[name])
        for key in fills.keys() & row.keys():
            fill = [fills[key]] * extra
            row[key] = row[key] + fill if plan.padding_side == "right" else fill + row[key]
    data = rows[0] if single else {key: [row[key] for row in rows] for key in rows[0]}
    return BatchEncoding(data, tensor_type=return_tensors)


def _fields_of(encoded: Any) -> dict[str, Any]:
    """Field -> its value, or the list of the rows' values."""
    if isinstance(encoded, Mapping):
        return dict(encoded)
    is_list = isinstance(encoded, Sequence) and not isinstance(encoded, str)
    if not is_list or not all(isinstance(row, Mapping) for row in encoded):
        raise TypeError(f"pad: expected an encoding or a list of encodings, got {type(encoded).__name__}")
    if not encoded:
        raise ValueError("pad: expected at least one encoding, got an empty list")
    for number, row in enumerate(encoded):
        if row.keys() != encoded[0].keys():
            raise ValueError(f"pad: encoding {number} has the fields {sorted(row)}, expected {sorted(encoded[0])}")
    return {key: [row[key] for row in encoded] for key in encoded[0]}
