"""The random numbers of sampling.

A token is drawn as argmax p / e with e ~ Exp(1), as `torch.multinomial` draws without replacement; several are the first in
that order. One generator for the whole batch (torch's own, by default) gives the numbers that `torch.multinomial` would
take, row after row: with one seed the tokens are the reference's. Then a text depends on its place in the batch. With `seed`
each prompt has a generator of its own, and what is drawn for it is the same in any batch, and alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Noise(Protocol):
    """Gives exponential numbers to the rows that are still there."""

    def draw(self, rows: Tensor, per_prompt: int, width: int) -> Tensor:
        """(n, width) float32 for `rows` (n), of which each prompt has `per_prompt`; those that are gone use theirs up too."""
        ...


class OfTheBatch:
    """One generator for all rows.

    Args:
        prompts: B.
        device: of the numbers.
        generator: None = torch's own of the device.
    """

    def __init__(self, prompts: int, device: torch.device, generator: torch.Generator | None = None) -> None:
        self._prompts, self._device, self._generator = prompts, device, generator

    def draw(self, rows: Tensor, per_prompt: int, width: int) -> Tensor:
        """See `Noise`."""
        numbers = torch.empty(self._prompts * per_prompt, width, device=self._device)
        return numbers.exponential_(generator=self._generator)[rows]


class OfEachPrompt:
    """A generator a prompt.

    Args:
        seeds: one for each prompt.
        device: of the numbers.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._device = device
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def draw(self, rows: Tensor, per_prompt: int, width: int) -> Tensor:
        """See `Noise`."""
        drawn: dict[int, Tensor] = {}
        for prompt in dict.fromkeys((rows // per_prompt).tolist()):
            numbers = torch.empty(per_prompt, width, device=self._device)
            drawn[prompt] = numbers.exponential_(generator=self._generators[prompt])
        return torch.stack([drawn[row // per_prompt][row % per_prompt] for row in rows.tolist()])


def noise_of(
    seed: int | Sequence[int] | None, generator: torch.Generator | None, prompts: int, device: torch.device
) -> Noise:
    """The numbers that a call asks for. Raises ValueError for both, and for another number of seeds than of prompts."""
    if seed is None:
        return OfTheBatch(prompts, device, generator)
    if generator is not None:
        raise ValueError("give seed, a generator for each prompt, or generator, one for the batch; got both")
    seeds = [seed] * prompts if isinstance(seed, int) else list(seed)
    if len(seeds) != prompts:
        raise ValueError(f"seed must be one number, or one for each of the {prompts} prompts, got {len(seeds)}")
    return OfEachPrompt(seeds, device)


def chosen(scores: Tensor, numbers: Tensor, count: int) -> Tensor:
    """(n, count) indices drawn without replacement from the distribution of scores (n, width), by the numbers of `Noise`."""
    ranks = scores.softmax(dim=-1).to(numbers.dtype) / numbers
    return ranks.argmax(dim=-1, keepdim=True) if count == 1 else ranks.topk(count, dim=-1).indices
