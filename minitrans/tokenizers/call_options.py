"""The padding and truncation arguments of a call, from their many spellings to one plan."""

from __future__ import annotations

import operator
import warnings
from dataclasses import dataclass

PADDING = ("longest", "max_length", "do_not_pad")
TRUNCATION = ("longest_first", "only_first", "only_second", "do_not_truncate")
LARGEST_LIMIT = int(1e20)  # a model_max_length above this means "no limit"


@dataclass(frozen=True)
class Plan:
    """What to do with lengths: `padding` and `truncation` are None or a strategy, `max_length` None if not needed."""

    padding: str | None
    truncation: str | None
    max_length: int | None
    stride: int
    pad_to_multiple_of: int | None
    padding_side: str


def integer(name: str, value: object, least: int) -> int:
    """`value` as an int. Raises TypeError if it is none, ValueError if it is below `least`."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__} {value!r}")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name}={number}: expected at least {least}")
    return number


def _strategy(name: str, value: object, when_true: str, valid: tuple[str, ...]) -> str | None:
    if value is None or value is False:
        return None
    if value is True:
        return when_true
    if not isinstance(value, str):
        raise TypeError(
            f"{name}: expected True, False or one of {', '.join(valid)}, got {type(value).__name__} {value!r}"
        )
    if value not in valid:
        raise ValueError(f"{name}={str(value)!r}: expected True, False or one of {', '.join(valid)}")
    found = valid[valid.index(value)]
    return None if found.startswith("do_not_") else found


def plan(
    *,
    padding: bool | str,
    truncation: bool | str | None,
    max_length: int | None,
    stride: int,
    pad_to_multiple_of: int | None,
    padding_side: str,
    pad_to_max_length: bool,
    model_max_length: int,
) -> Plan:
    """The plan of one call.

    As in the reference, `max_length` alone truncates, and a length that is not given is the model's; truncation without
    any limit does nothing, with a warning.

    Raises:
        TypeError, ValueError: naming the argument that is of the wrong type, unknown, or cannot be obeyed.
    """
    limit = None if max_length is None else integer("max_length", max_length, 0)
    multiple = None if pad_to_multiple_of is None else integer("pad_to_multiple_of", pad_to_multiple_of, 1)
    if padding_side not in ("left", "right"):
        raise ValueError(f"padding_side={padding_side!r}: expected 'left' or 'right'")
    if limit is not None and padding is False and truncation is None:
        truncation = "longest_first"
    cut = _strategy("truncation", truncation, "longest_first", TRUNCATION)
    pad = _strategy("padding", padding, "longest", PADDING)
    if pad_to_max_length and padding is False:
        pad = "longest" if limit is None else "max_length"
    if padding is True and limit is not None and cut is None:
        warnings.warn(
            "max_length has no effect with padding=True and no truncation; to pad up to it pass padding='max_length'",
            UserWarning,
            stacklevel=4,
        )
    unbounded = model_max_length > LARGEST_LIMIT
    if limit is None and unbounded and pad == "max_length":
        raise ValueError("padding='max_length': the tokenizer has no model_max_length, so pass max_length")
    if limit is None and unbounded and cut is not None:
        warnings.warn(
            f"truncation={cut!r} has no effect: the tokenizer has no model_max_length and max_length was not given",
            UserWarning,
            stacklevel=4,
        )
        cut = None
    if limit is None and (pad == "max_length" or cut is not None):
        limit = model_max_length
    if cut and pad and multiple and limit is not None and limit % multiple:
        raise ValueError(
            f"max_length={limit} is not a multiple of pad_to_multiple_of={multiple}, but both truncate and pad"
        )
    return Plan(pad, cut, limit, integer("stride", stride, 0), multiple, padding_side)


def require_room(chosen: Plan, specials: int) -> None:
    """Raises ValueError if a truncated sequence cannot hold the `specials` special tokens and the stride."""
    if chosen.truncation is None or chosen.max_length is None:
        return
    room = chosen.max_length - specials
    if room < 0 or chosen.max_length == 0:
        raise ValueError(f"max_length={chosen.max_length}: too small, {specials} special tokens and a text must fit")
    if chosen.stride and chosen.stride >= room:
        raise ValueError(
            f"stride={chosen.stride}: expected less than {room}, which is max_length={chosen.max_length} "
            f"without {specials} special tokens"
        )
