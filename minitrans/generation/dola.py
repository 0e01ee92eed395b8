"""DoLa: what the last layer says against what an earlier one says (Chuang et al. 2024, decoding by contrasting layers)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minitrans.generation.decoding import Reading, Running

_SHARE = 0.1  # tokens less likely than so much of the best are left out


class Contrasted(Running):
    """Texts whose scores are log-probabilities of the last layer minus those of the early layer that differs most from it.

    Args:
        run: the texts.
        layers: "low", "high", or the numbers of early layers; 0 = the embeddings.
        head: from hidden states to scores.
        is_tied: whether the head is the token table, which finds in the embeddings what is there already.
    """

    def __init__(
        self, run: Running, layers: str | Sequence[int], head: Callable[[Tensor], Tensor], *, is_tied: bool
    ) -> None:
        vars(self).update(vars(run))
        self._layers, self._head, self._is_tied = layers, head, is_tied

    def read(self, keep: int = 1, *, states: bool = False) -> Reading:
        """See `Running`."""
        reading = super().read(keep, states=True)
        layers = early_layers(self._layers, len(reading.states) - 1, is_tied=self._is_tied)
        last = reading.scores[:, -1]
        early = torch.stack([self._head(reading.states[layer][:, -1]).to(last.dtype) for layer in layers])
        return reading._replace(scores=contrast(last, early)[:, None])


def early_layers(asked: str | Sequence[int], layers: int, *, is_tied: bool) -> list[int]:
    """The numbers of the early layers. Raises ValueError where there is none of these."""
    first = min(2, max(layers - 1, 0)) if is_tied else 0
    half = layers // 2
    if isinstance(asked, str):
        found = [first] if first == half else []
        found = found or list(
            range(first, min(half, 20), 2) if asked == "low" else range(max(half, layers - 20), layers, 2)
        )
    else:
        found = sorted(layer for layer in asked if layer < layers)
    if not found:
        raise ValueError(
            f"dola_layers={asked!r}: none is before the last of {layers} layers: name numbers below {layers}"
        )
    return found


def contrast(last: Tensor, early: Tensor) -> Tensor:
    """(N, V) scores from those of the last layer (N, V) and of early ones (L', N, V); each row has an early layer of its own."""
    late, before = last.log_softmax(dim=-1), early.log_softmax(dim=-1)
    middle = (late.exp() + before.exp()).log() - math.log(2)
    divergence = _divergence(late.expand_as(before), middle) + _divergence(before, middle)  # (L', N)
    base = before.gather(0, divergence.argmax(dim=0)[None, :, None].expand(1, *last.shape)).squeeze(0)
    plausible = late >= late.amax(dim=-1, keepdim=True) + math.log(_SHARE)
    return (late - base).masked_fill(~plausible, -torch.inf)


def _divergence(logs: Tensor, middle: Tensor) -> Tensor:
    """KL of `middle` from what stands before it, as the reference has it: Σ m (log m - log p)."""
    return (middle.exp() * (middle - logs)).sum(dim=-1)
