"""What a tokenizer returns: a dictionary of lists or tensors that still knows words, characters and sequences."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Encoding

TENSOR_TYPES = ("pt", "np")


class CharSpan(NamedTuple):
    """The characters start .. end-1 of a text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """The tokens start .. end-1 of a sequence."""

    start: int
    end: int


class BatchEncoding(UserDict[str, Any]):
    """The encodings of a batch: `batch["input_ids"]`, `batch.input_ids`, `model(**batch)`.

    Attributes:
        encodings: the rows as the `tokenizers` library made them, None where there are only numbers.
        n_sequences: 1 for single texts, 2 for pairs, None if unknown.

    The methods that go between tokens, words and characters take `(batch_index, index)`, or `(index)` in the first row.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encoding: Encoding | Sequence[Encoding] | None = None,
        tensor_type: str | None = None,
        prepend_batch_axis: bool = False,
        n_sequences: int | None = None,
    ) -> None:
        super().__init__(data or {})
        rows = [encoding] if isinstance(encoding, Encoding) else encoding
        self.encodings = None if rows is None else list(rows)
        self.n_sequences = self.encodings[0].n_sequences if n_sequences is None and self.encodings else n_sequences
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    def __getitem__(self, item: Any) -> Any:
        """A field by its name; a row's `Encoding` by its number; a dictionary of sliced fields by a slice."""
        if isinstance(item, str):
            return self.data[item]
        if isinstance(item, slice) and self.encodings is None:
            return {key: value[item] for key, value in self.data.items()}
        return self._rows()[item]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(f"this encoding has no field {name!r}") from None

    @property
    def is_fast(self) -> bool:
        """Whether the encodings behind the numbers are here, so that words and characters can be found."""
        return self.encodings is not None

    def _rows(self) -> list[Encoding]:
        if self.encodings is None:
            raise ValueError(
                "this batch was not made by a tokenizer's call: it knows no words, characters or sequences"
            )
        return self.encodings

    def _row(self, first: int, second: int | None) -> tuple[Encoding, int]:
        """The row and the index in it, from the two ways to write them; negative ones count from the end."""
        row, index = (0, first) if second is None else (first, second)
        encoding = self._rows()[row]
        return encoding, index + len(encoding) if index < 0 else index

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row."""
        return self._rows()[batch_index].tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row the word it belongs to, None for special tokens."""
        return self._rows()[batch_index].word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row 0 or 1, the text it belongs to, None for special tokens."""
        return self._rows()[batch_index].sequence_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The text, 0 or 1, that a token belongs to."""
        row, index = self._row(batch_or_token_index, token_index)
        return row.token_to_sequence(index)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The word that a token belongs to, in its text."""
        row, index = self._row(batch_or_token_index, token_index)
        return row.token_to_word(index)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters of the text that a token covers, None for a special token."""
        row, index = self._row(batch_or_token_index, token_index)
        found = row.token_to_chars(index)
        return None if found is None else CharSpan(*found)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word, None if it has none."""
        row, index = self._row(batch_or_word_index, word_index)
        found = row.word_to_tokens(index, sequence_index)
        return None if found is None else TokenSpan(*found)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The characters of a word, None if it has none."""
        row, index = self._row(batch_or_word_index, word_index)
        found = row.word_to_chars(index, sequence_index)
        return None if found is None else CharSpan(*found)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token that covers a character, None for a space or a character that was cut off."""
        row, index = self._row(batch_or_char_index, char_index)
        return row.char_to_token(index, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The word that covers a character."""
        row, index = self._row(batch_or_char_index, char_index)
        return row.char_to_word(index, sequence_index)

    def convert_to_tensors(self, tensor_type: str | None = None, prepend_batch_axis: bool = False) -> BatchEncoding:
        """Turns every field into a tensor ("pt") or an array ("np") of int64, in place; None leaves all as it is.

        With `prepend_batch_axis` a field (T) becomes one of (1, T).

        Raises:
            ValueError: if the type is unknown, or a field's rows differ in length.
        """
        if tensor_type is None:
            return self
        if tensor_type not in TENSOR_TYPES:
            raise ValueError(f"return_tensors={tensor_type!r}: expected one of 'pt' (torch), 'np' (numpy) or None")
        for key, value in self.data.items():
            try:
                self.data[key] = _tensor([value] if prepend_batch_axis else value, tensor_type)
            except (ValueError, TypeError, RuntimeError):
                how = "its rows differ in length or are no numbers; pass padding=True (and truncation=True), or drop the field"
                raise ValueError(f"return_tensors={tensor_type!r}: {key!r} cannot become one tensor: {how}") from None
        return self

    def to(self, device: str | int | torch.device, *, non_blocking: bool = False) -> BatchEncoding:
        """Moves all tensors to `device`, in place, and returns itself. Raises TypeError if `device` is none."""
        if isinstance(device, bool) or not isinstance(device, str | int | torch.device):
            raise TypeError(
                f"to({device!r}): expected a device such as 'cuda' or torch.device('cpu'); ids stay integers"
            )
        self.data = {
            key: value.to(device=device, non_blocking=non_blocking) if isinstance(value, torch.Tensor) else value
            for key, value in self.data.items()
        }
        return self


def _tensor(value: Any, tensor_type: str) -> Any:
    if tensor_type == "pt" and isinstance(value, torch.Tensor):
        return value
    if tensor_type == "pt" and isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
        return torch.stack(value)
    array = np.asarray(value)
    if array.dtype == object:
        raise ValueError("ragged")
    array = array.astype(np.int64) if array.size == 0 else array
    return torch.from_numpy(array) if tensor_type == "pt" else array
