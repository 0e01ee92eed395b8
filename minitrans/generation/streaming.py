"""Text as it is written: to the terminal, or to whoever iterates over it."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Queue
from typing import Any, Protocol

from torch import Tensor

_WIDE = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F))  # signs that are words of their own


class Decoder(Protocol):
    """The part of a tokenizer that a streamer needs."""

    def decode(self, ids: Any, **options: Any) -> str:
        """The text of tokens."""
        ...


class TextStreamer:
    """Prints words as soon as no further token can change them.

    Args:
        tokenizer: that decodes.
        skip_prompt: whether to leave the prompt out.
        options: of `tokenizer.decode`, such as skip_special_tokens=True.
    """

    def __init__(self, tokenizer: Decoder, skip_prompt: bool = False, **options: Any) -> None:
        self.tokenizer, self.skip_prompt, self.options = tokenizer, skip_prompt, options
        self._ids: list[int] = []
        self._shown = 0
        self._is_prompt = True

    def put(self, value: Tensor) -> None:
        """Takes the prompt, (T) or (1, T), then tokens. Raises ValueError for several texts at once."""
        if value.dim() > 1 and len(value) > 1:
            raise ValueError("a streamer shows one text: give one prompt, without num_return_sequences or beams")
        is_prompt, self._is_prompt = self._is_prompt, False
        if is_prompt and self.skip_prompt:
            return
        self._ids += value.flatten().tolist()
        text = self._text()
        self._show(text[: max(self._shown, settled(text))])

    def end(self) -> None:
        """Shows the rest."""
        self._show(self._text(), end=True)
        self._ids, self._shown, self._is_prompt = [], 0, True

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Where text goes; at the end there is a new line."""
        print(text, flush=True, end="\n" if stream_end else "")

    def _text(self) -> str:
        return str(self.tokenizer.decode(self._ids, **self.options)) if self._ids else ""

    def _show(self, text: str, *, end: bool = False) -> None:
        fresh, self._shown = text[self._shown :], len(text)
        self.on_finalized_text(fresh, stream_end=end)


class TextIteratorStreamer(TextStreamer):
    """An iterator over the same pieces, for a loop that runs beside the thread that writes.

    Args:
        tokenizer, skip_prompt, options: as in `TextStreamer`.
        timeout: seconds to wait for a piece; None = for ever.
    """

    def __init__(
        self, tokenizer: Decoder, skip_prompt: bool = False, timeout: float | None = None, **options: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **options)
        self.timeout = timeout
        self._pieces: Queue[str | None] = Queue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """See `TextStreamer`."""
        self._pieces.put(text, timeout=self.timeout)
        if stream_end:
            self._pieces.put(None, timeout=self.timeout)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = self._pieces.get(timeout=self.timeout)
        if piece is None:
            raise StopIteration
        return piece


def settled(text: str) -> int:
    """How many characters of a text stay, whatever follows: lines, signs that are words, and what is before the last space."""
    ends = text.endswith("\n") or (text != "" and any(low <= ord(text[-1]) <= high for low, high in _WIDE))
    return len(text) if ends else max(text.rfind(" "), 0)  # the space itself may go before a full stop
