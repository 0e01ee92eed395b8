"""A model at work on texts: it reads what it has not read yet, and remembers the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from minitrans.generation.text import Text
from minitrans.layers.cache import Cache

SEEN = ("hidden_states", "attentions", "cross_attentions")


class Output(Protocol):
    """What a model returns."""

    logits: Tensor
    past_key_values: Cache | None
    hidden_states: tuple[Tensor, ...] | None
    attentions: tuple[Tensor, ...] | None
    cross_attentions: tuple[Tensor, ...] | None


class Call(Protocol):
    """A model, as a search sees it."""

    def __call__(
        self,
        tokens: Tensor,
        *,
        mask: Tensor | None,
        places: Tensor,
        cache: Cache | None,
        use_cache: bool,
        beside: Mapping[str, Tensor],
        keep: int,
        states: bool,
        attentions: bool,
    ) -> Output:
        """Scores of the tokens after (N, t) tokens.

        Args:
            tokens: that it has not read.
            mask: (N, S) where tokens stand, those it has read too; None = everywhere.
            places: (N, t) how many tokens of its text stand before each.
            cache: what it remembers of those it has read.
            use_cache: whether to remember.
            beside: what goes with each text into every call, such as what an encoder made of its source.
            keep: of how many of the last tokens to return logits (N, keep, V).
            states: whether to return hidden states.
            attentions: whether to return probabilities of attention.
        """
        ...


class Reading(NamedTuple):
    """What comes of reading.

    Attributes:
        scores: (N, keep, V), in float32 at least.
        seen: what was asked for besides, by the names of `Output`: L + 1 times hidden states (N, t, D), L times probabilities
            (N, H, t, S).
    """

    scores: Tensor
    seen: Mapping[str, tuple[Tensor, ...]]

    @property
    def states(self) -> tuple[Tensor, ...]:
        """The hidden states."""
        return self.seen["hidden_states"]

    def select(self, rows: Tensor) -> Reading:
        """Of the texts of these numbers."""
        return Reading(self.scores[rows], {name: tuple(each[rows] for each in of) for name, of in self.seen.items()})


class Running:
    """Texts, and what the model remembers of them.

    Args:
        call: the model.
        text: what is written.
        beside: see `Call`.
        cache: what it remembers already, or an empty one; None = a growing one.
        use_cache: False reads everything again at each step.
        states, attentions: see `Call`; of every reading.
    """

    def __init__(
        self,
        call: Call,
        text: Text,
        beside: Mapping[str, Tensor] | None = None,
        cache: Cache | None = None,
        *,
        use_cache: bool = True,
        states: bool = False,
        attentions: bool = False,
    ) -> None:
        self.states, self.attentions = states, attentions
        self.call, self.text, self.beside, self.cache, self.use_cache = call, text, dict(beside or {}), cache, use_cache
        self._is_padded, self._width = bool((text.first > 0).any()), 1

    @property
    def is_widened(self) -> bool:
        """Whether there are as many texts as there are to be."""
        return self._width == 1

    def widen(self, width: int) -> None:
        """Every text becomes `width` texts once it has been read."""
        self._width = width

    @property
    def held(self) -> int:
        """How many columns the model remembers."""
        return 0 if self.cache is None else self.cache.get_seq_length()

    def read(self, keep: int = 1, *, states: bool = False) -> Reading:
        """Reads what it has not read; see `Call`."""
        text, held = self.text, self.held
        states, attentions = states or self.states, self.attentions
        columns = torch.arange(held, text.ids.shape[1], device=text.ids.device)
        places = (columns - text.first[:, None]).clamp(min=0) if self._is_padded else columns.expand(len(text.ids), -1)
        output = self.call(
            text.ids[:, held:], mask=text.real if self._is_padded else None, places=places, cache=self.cache,
            use_cache=self.use_cache, beside=self.beside, keep=keep, states=states, attentions=attentions,
        )  # fmt: skip
        self.cache = output.past_key_values if self.use_cache else None
        # in float32 at least: what is added up over a text should not be rounded to half a precision
        scores = output.logits[:, -keep:].to(torch.promote_types(output.logits.dtype, torch.float32))
        wanted = [name for name, is_wanted in zip(SEEN, (states, attentions, attentions), strict=True) if is_wanted]
        seen = {name: found for name in wanted if (found := getattr(output, name)) is not None}
        reading = Reading(scores, seen)
        if self._width > 1:
            rows = torch.arange(len(text.ids), device=columns.device).repeat_interleave(self._width)
            self._width = 1
            self.select(rows)
            reading = reading.select(rows)
        return reading

    def select(self, rows: Tensor) -> None:
        """Text n becomes what text rows[n] was."""
        prompts = self.text.prompt
        self.text = self.text.select(rows)
        if not torch.equal(self.text.prompt, prompts):  # what stands beside a text goes with its prompt
            self.beside = {name: value[rows] for name, value in self.beside.items()}
        self._is_padded = bool((self.text.first > 0).any())
        if self.cache is not None:
            self.cache.reorder(rows)

    def move_to(self, text: Text, unread: int) -> None:
        """Goes on with texts that begin as these do; of each all but the last `unread` tokens are read already."""
        held = text.ids.shape[1] - unread
        if self.cache is not None:
            moved = self.text.first - text.first
            if bool((moved == 0).all()):
                self.cache.crop(held)
            else:
                self.cache.gather((torch.arange(held, device=moved.device) + moved[:, None]).clamp(min=0))
        self.text, self._is_padded = text, bool((text.first > 0).any())

    def append(self, tokens: Tensor) -> None:
        """Writes (N, t) tokens, which the next `read` reads."""
        self.text = self.text.append(tokens)


class Guided(Running):
    """The same, with a second reading of each text, after another prompt, for `processing.guidance`.

    Args:
        run: the texts.
        other: the same tokens after the other prompts.
    """

    def __init__(self, run: Running, other: Running) -> None:
        vars(self).update(vars(run))
        self.other = other

    def read(self, keep: int = 1, *, states: bool = False) -> Reading:
        """See `Running`."""
        reading = super().read(keep, states=states)
        unguided = self.other.read().scores[:, -1].log_softmax(dim=-1)
        self.text = replace(self.text, unguided=unguided)
        return reading

    def widen(self, width: int) -> None:
        """See `Running`."""
        super().widen(width)
        self.other.widen(width)

    def select(self, rows: Tensor) -> None:
        """See `Running`."""
        super().select(rows)
        if self.other.is_widened:  # else its own reading widens it, from as many texts as there are now
            self.other.select(rows)

    def append(self, tokens: Tensor) -> None:
        """See `Running`."""
        super().append(tokens)
        self.other.append(tokens)
