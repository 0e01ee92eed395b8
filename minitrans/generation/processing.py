"""From settings to the processors of scores, in the reference's order, which is the order of the table at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minitrans.generation import bans, penalties, warpers
from minitrans.generation.settings import Settings, biases, many
from minitrans.generation.text import Processor, Text


@dataclass(frozen=True)
class Wanted:
    """What a call asks for, besides its settings.

    Attributes:
        settings: of the call.
        source: (B, S) what an encoder reads, or the prompts of a decoder.
        source_real: (B, S) where it is no padding.
        own: processors of the user's, (ids (N, T), scores) -> scores.
        allowed: see `bans.only_allowed`.
    """

    settings: Settings
    source: Tensor
    source_real: Tensor
    own: Sequence[Callable[[Tensor, Tensor], Tensor]] = ()
    allowed: Callable[[int, Tensor], Sequence[int]] | None = None


class Row(NamedTuple):
    """A processor: what it is called, when it is used, and how it is made."""

    name: str
    is_wanted: Callable[[Wanted], Any]
    make: Callable[[Wanted], Processor]


def guidance(scale: float) -> Processor:
    """scale · (log p(token | prompt) - log p(token)) + log p(token) (Sanchez et al. 2023, classifier-free guidance)."""

    def process(text: Text, scores: Tensor) -> Tensor:
        assert text.unguided is not None
        return scale * (scores.log_softmax(dim=-1) - text.unguided) + text.unguided

    return process


def _bad_words(wanted: Wanted) -> Processor:
    ends = [[token] for token in wanted.settings.eos]
    words = (tuple(word) for word in wanted.settings.bad_words_ids or () if list(word) not in ends)
    return bans.sequence_bias(dict.fromkeys(words, -torch.inf))


def _first_new(wanted: Wanted) -> Callable[[Text], Tensor]:
    """Which texts are about to get the first token that is theirs to choose."""
    forced = wanted.settings.forced_bos_token_id is not None

    def at_begin(text: Text) -> Tensor:
        return text.new == ((text.length - text.new == 1) & forced).long()

    return at_begin


def _own(wanted: Wanted) -> Processor:
    def process(text: Text, scores: Tensor) -> Tensor:
        for processor in wanted.own:
            processed = processor(text.tokens, scores)
            if getattr(processed, "shape", None) != scores.shape:
                told = f"(N, V) = {tuple(scores.shape)}, got {getattr(processed, 'shape', type(processed).__name__)}"
                raise ValueError(f"a processor of logits_processor must return scores {told}")
            scores = processed
        return scores

    return process


def _sampled(name: str, is_wanted: Callable[[Settings], Any], make: Callable[[Settings], Processor]) -> Row:
    return Row(name, lambda w: w.settings.do_sample and is_wanted(w.settings), lambda w: make(w.settings))


def _set(name: str, is_wanted: Callable[[Settings], Any], make: Callable[[Settings], Processor]) -> Row:
    return Row(name, lambda w: is_wanted(w.settings), lambda w: make(w.settings))


ROWS: tuple[Row, ...] = (
    _set("guidance_scale", lambda s: s.guidance_scale != 1.0, lambda s: guidance(s.guidance_scale)),
    _set("sequence_bias", lambda s: s.sequence_bias is not None, lambda s: bans.sequence_bias(biases(s.sequence_bias))),
    Row(
        "encoder_repetition_penalty", lambda w: w.settings.encoder_repetition_penalty != 1.0,
        lambda w: penalties.repetition(
            1 / w.settings.encoder_repetition_penalty, penalties.in_source(w.source, w.source_real)
        ),
    ),
    _set(
        "repetition_penalty", lambda s: s.repetition_penalty != 1.0,
        lambda s: penalties.repetition(s.repetition_penalty, penalties.in_text),
    ),
    _set("frequency_penalty", lambda s: s.frequency_penalty, lambda s: penalties.frequency(s.frequency_penalty)),
    _set("presence_penalty", lambda s: s.presence_penalty, lambda s: penalties.presence(s.presence_penalty)),
    _set(
        "no_repeat_ngram_size", lambda s: s.no_repeat_ngram_size, lambda s: bans.no_repeated_ngram(s.no_repeat_ngram_size)
    ),
    Row(
        "encoder_no_repeat_ngram_size", lambda w: w.settings.encoder_no_repeat_ngram_size,
        lambda w: bans.no_ngram_of_source(w.settings.encoder_no_repeat_ngram_size, w.source, w.source_real),
    ),
    Row("bad_words_ids", lambda w: w.settings.bad_words_ids, _bad_words),
    _set(
        "min_length", lambda s: s.eos and s.min_length,
        lambda s: bans.suppress_where(s.eos, lambda text: text.length < s.min_length),
    ),
    _set(
        "min_new_tokens", lambda s: s.eos and s.min_new_tokens,
        lambda s: bans.suppress_where(s.eos, lambda text: text.new < s.min_new_tokens),
    ),
    Row("prefix_allowed_tokens_fn", lambda w: w.allowed is not None, lambda w: bans.only_allowed(w.allowed)),  # type: ignore[arg-type]
    _set(
        "forced_bos_token_id", lambda s: s.forced_bos_token_id is not None,
        lambda s: bans.force_where(many(s.forced_bos_token_id), lambda text: text.length == 1),
    ),
    _set(
        "forced_eos_token_id", lambda s: s.forced_eos_token_id is not None,
        lambda s: bans.force_where(many(s.forced_eos_token_id), lambda text: text.new == text.most - 1),
    ),
    _set("remove_invalid_values", lambda s: s.remove_invalid_values, lambda s: bans.finite),
    _set(
        "exponential_decay_length_penalty", lambda s: s.eos and s.exponential_decay_length_penalty is not None,
        lambda s: penalties.exponential_decay(
            int(s.exponential_decay_length_penalty[0]), s.exponential_decay_length_penalty[1], s.eos,  # type: ignore[index]
        ),
    ),
    _set("suppress_tokens", lambda s: s.suppress_tokens, lambda s: bans.suppress(s.suppress_tokens or ())),
    Row(
        "begin_suppress_tokens", lambda w: w.settings.begin_suppress_tokens,
        lambda w: bans.suppress_where(w.settings.begin_suppress_tokens or (), _first_new(w)),
    ),
    Row("logits_processor", lambda w: w.own, _own),
    _sampled("temperature", lambda s: s.temperature != 1.0, lambda s: warpers.temperature(s.temperature)),
    _sampled("top_h", lambda s: s.top_h is not None, lambda s: warpers.top_h(s.top_h)),  # type: ignore[arg-type]
    _sampled("top_k", lambda s: s.top_k, lambda s: warpers.top_k(s.top_k, s.keep)),
    _sampled("top_p", lambda s: s.top_p < 1.0, lambda s: warpers.top_p(s.top_p, s.keep)),
    _sampled("min_p", lambda s: s.min_p is not None, lambda s: warpers.min_p(s.min_p, s.keep)),  # type: ignore[arg-type]
    _sampled("typical_p", lambda s: s.typical_p < 1.0, lambda s: warpers.typical(s.typical_p, s.keep)),
    _sampled(
        "epsilon_cutoff", lambda s: 0 < s.epsilon_cutoff < 1, lambda s: warpers.epsilon(s.epsilon_cutoff, s.keep)
    ),
    _sampled("eta_cutoff", lambda s: 0 < s.eta_cutoff < 1, lambda s: warpers.eta(s.eta_cutoff, s.keep)),
    _set("renormalize_logits", lambda s: s.renormalize_logits, lambda s: lambda text, scores: scores.log_softmax(dim=-1)),
)  # fmt: skip


def processors(wanted: Wanted) -> list[tuple[str, Processor]]:
    """Those that a call uses, by name, in order."""
    return [(row.name, row.make(wanted)) for row in ROWS if row.is_wanted(wanted)]


def in_turn(each: Iterable[Processor]) -> Processor:
    """One after the other."""
    each = tuple(each)

    def process(text: Text, scores: Tensor) -> Tensor:
        for processor in each:
            scores = processor(text, scores)
        return scores

    return process
