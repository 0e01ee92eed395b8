"""Running the backend on a batch by a plan, and reading the fields of a call off its encodings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenizers import Encoding
from tokenizers import Tokenizer as Backend

from minitrans.errors import CheckpointError
from minitrans.files import printable
from minitrans.tokenizers.backend import is_panic
from minitrans.tokenizers.call_options import Plan, require_room
from minitrans.tokenizers.inputs import require_unicode

# Field -> the argument that asks for it (None: always there) and how to read it.
_FIELDS: dict[str, tuple[str | None, Callable[[Encoding], Any]]] = {
    "input_ids": (None, lambda row: row.ids),
    "token_type_ids": ("return_token_type_ids", lambda row: row.type_ids),
    "attention_mask": ("return_attention_mask", lambda row: row.attention_mask),
    "special_tokens_mask": ("return_special_tokens_mask", lambda row: row.special_tokens_mask),
    "offset_mapping": ("return_offsets_mapping", lambda row: row.offsets),
    "length": ("return_length", len),
}
_OTHER_ARGUMENTS = {"return_overflowing_tokens", "pad_to_max_length", "verbose"}


def returned_fields(asked: Mapping[str, Any], input_names: Sequence[str]) -> dict[str, Callable[[Encoding], Any]]:
    """The fields a call returns, each with its reader; those not asked for (None) are returned if the model takes them.

    Raises:
        TypeError: if an argument is unknown.
    """
    known = {argument for argument, _ in _FIELDS.values() if argument is not None} | _OTHER_ARGUMENTS
    unknown = sorted(asked.keys() - known)
    if unknown:
        raise TypeError(
            f"unexpected argument {unknown[0]!r}; besides the named ones a call takes {', '.join(sorted(known))}"
        )
    fields = {}
    for name, (argument, read) in _FIELDS.items():
        wanted = True if argument is None else asked.get(argument)
        if wanted is None:
            wanted = name in ("token_type_ids", "attention_mask") and name in input_names
        if wanted:
            fields[name] = read
    return fields


def set_lengths(backend: Backend, plan: Plan, truncation_side: str, pad: Mapping[str, Any] | None) -> None:
    """Puts the plan's truncation and padding (`pad`: the pad token, its id and type) into the backend's state."""
    if plan.truncation is None or plan.max_length is None:
        backend.no_truncation()
    else:
        backend.enable_truncation(
            plan.max_length, stride=plan.stride, strategy=plan.truncation, direction=truncation_side
        )
    if plan.padding is None or pad is None:
        backend.no_padding()
    else:
        backend.enable_padding(
            direction=plan.padding_side,
            length=plan.max_length if plan.padding == "max_length" else None,
            pad_to_multiple_of=plan.pad_to_multiple_of,
            **pad,
        )


def encode_batch(
    backend: Backend, batch: list[Any], plan: Plan, specials: bool, split: bool, name: str
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
        require_unicode(batch)
        raise _refusal(error, plan, name) from None


def _refusal(error: BaseException, plan: Plan, name: str) -> ValueError:
    """The error to raise for what the backend raised: the caller's if a length is at fault, else the vocabulary's."""
    if "Truncation" in str(error):
        return ValueError(
            f"truncation={plan.truncation!r} cannot reach max_length={plan.max_length}: the text it may shorten "
            "is too short; use truncation='longest_first' or a larger max_length"
        )
    if plan.truncation and "stride" in str(error):
        return ValueError(
            f"stride={plan.stride}: a truncated text keeps fewer tokens than that at max_length={plan.max_length}; "
            "use a smaller stride or a larger max_length"
        )
    return CheckpointError(f"{printable(name)}: cannot encode: {printable(error, 200)}")


def require_room_for(backend: Backend, batch: list[Any], plan: Plan, specials: bool) -> None:
    """Raises ValueError if a truncated text or pair cannot hold its special tokens and the stride."""
    for pair in {isinstance(item, tuple) for item in batch}:
        require_room(plan, backend.num_special_tokens_to_add(pair) if specials else 0)
