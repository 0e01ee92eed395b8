"""Processors that forbid tokens, or force one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from minitrans.files import printable
from minitrans.generation.text import Processor, Text

FORBIDDEN = -torch.inf


def suppress(tokens: Sequence[int]) -> Processor:
    """Never these tokens."""
    return lambda text, scores: scores.index_fill(1, _tensor(tokens, scores), FORBIDDEN)


def suppress_where(tokens: Sequence[int], where: Callable[[Text], Tensor]) -> Processor:
    """Not these tokens in the texts of which `where` (N) is True."""

    def process(text: Text, scores: Tensor) -> Tensor:
        return torch.where(where(text)[:, None], suppress(tokens)(text, scores), scores)

    return process


def force_where(tokens: Sequence[int], where: Callable[[Text], Tensor]) -> Processor:
    """One of these tokens, all with score 0, in the texts of which `where` (N) is True."""

    def process(text: Text, scores: Tensor) -> Tensor:
        forced = torch.full_like(scores, FORBIDDEN).index_fill(1, _tensor(tokens, scores), 0.0)
        return torch.where(where(text)[:, None], forced, scores)

    return process


def sequence_bias(biases: Mapping[tuple[int, ...], float]) -> Processor:
    """Adds a bias to the score of a token that would complete one of these sequences."""

    def process(text: Text, scores: Tensor) -> Tensor:
        added = torch.zeros_like(scores)
        for sequence, bias in biases.items():
            *before, last = sequence
            added[:, last] += torch.where(_ends_with(text, before), bias, 0.0).to(scores.dtype)
        return scores + added

    return process


def no_repeated_ngram(size: int) -> Processor:
    """No token that would complete a sequence of `size` tokens that the text holds already (Paulus et al. 2018)."""

    def process(text: Text, scores: Tensor) -> Tensor:
        return _without_ngrams(size, text, text.ids, text.real, scores)

    return process


def no_ngram_of_source(size: int, ids: Tensor, real: Tensor) -> Processor:
    """No token that would complete `size` tokens of the source: of each prompt (B, S) ids, and where they are real."""

    def process(text: Text, scores: Tensor) -> Tensor:
        return _without_ngrams(size, text, ids[text.prompt], real[text.prompt], scores)

    return process


def only_allowed(allowed: Callable[[int, Tensor], Sequence[int]]) -> Processor:
    """What `allowed` lists for the number of a prompt and the ids of a text; with score 0 if all of it is forbidden."""

    def process(text: Text, scores: Tensor) -> Tensor:
        mask = torch.full_like(scores, FORBIDDEN)
        for row, prompt in enumerate(text.prompt.tolist()):
            tokens = allowed(prompt, text.ids[row, max(int(text.first[row]), text.hidden) :])
            ids = [] if tokens is None else [int(token) for token in tokens]
            if not ids or not 0 <= min(ids) <= max(ids) < scores.shape[1]:
                raise ValueError(
                    f"prefix_allowed_tokens_fn must list one token at least to go on with, ids below {scores.shape[1]}; for "
                    f"prompt {prompt} it gave {printable(repr(tokens))}"
                )
            mask[row, ids] = 0.0
        masked = scores + mask
        stuck = masked.amax(dim=-1).isneginf()
        return torch.where(stuck[:, None], mask, masked)

    return process


def finite(text: Text, scores: Tensor) -> Tensor:
    """NaN becomes 0, infinities the largest numbers there are."""
    return torch.nan_to_num(scores, nan=0.0)


def _without_ngrams(size: int, text: Text, source: Tensor, real: Tensor, scores: Tensor) -> Tensor:
    if source.shape[1] < size or text.ids.shape[1] < size - 1:
        return scores
    windows = source.unfold(1, size, 1)  # (N, W, size)
    whole = real.unfold(1, size, 1).all(dim=-1)
    before = text.ids[:, text.ids.shape[1] + 1 - size :]  # (N, size - 1)
    met = (windows[..., :-1] == before[:, None]).all(dim=-1) & whole & (text.length >= size - 1)[:, None]
    vocabulary = scores.shape[-1]
    banned = torch.zeros(len(scores), vocabulary + 1, dtype=torch.bool, device=scores.device)
    banned.scatter_(1, torch.where(met, windows[..., -1].clamp(max=vocabulary), vocabulary), value=True)
    return scores.masked_fill(banned[:, :vocabulary], FORBIDDEN)


def _ends_with(text: Text, tokens: Sequence[int]) -> Tensor:
    """(N) which texts end with these tokens."""
    count = len(tokens)
    if count > text.ids.shape[1]:
        return torch.zeros_like(text.first, dtype=torch.bool)
    tail = text.ids[:, text.ids.shape[1] - count :]
    return (tail == torch.tensor(tokens, dtype=tail.dtype, device=tail.device)).all(dim=-1) & (text.length >= count)


def _tensor(tokens: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(list(tokens), dtype=torch.long, device=like.device)
