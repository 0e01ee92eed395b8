"""The small model that is trained from scratch: embeddings, pre-norm blocks, one linear layer; only the attention differs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from minitrans.attention.context import Context
from minitrans.attention.mask import AttentionMask
from minitrans.lab.tasks.task import Task
from minitrans.layers.block import Block
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.layers.norms import LayerNorm
from minitrans.layers.positions import SinusoidalPositions
from minitrans.layers.stack import Stack


@dataclass(frozen=True)
class TrunkSizes:
    """Of the model.

    Attributes:
        width: D.
        heads: H.
        layers: L.
        hidden_width: F.
        sinusoids: whether positions are added to the embeddings; else the attention alone tells places.
    """

    width: int = 64
    heads: int = 2
    layers: int = 2
    hidden_width: int = 128
    sinusoids: bool = True


class Trunk(nn.Module):
    """(B, T) ids -> (N, classes) of the tokens that are asked, or (B, classes) of the mean of the text, as the task has it.

    Args:
        task: what it is for.
        sizes: how large.
        attention: the variant, in every block.
        longest: the longest text it will see, in training or later.
    """

    def __init__(self, task: Task, sizes: TrunkSizes, attention: Any, longest: int) -> None:
        super().__init__()
        self.causal, self.per_token, self.hidden_width = task.causal, task.per_token, sizes.hidden_width
        self.embedding = nn.Embedding(task.vocabulary, sizes.width)
        self.positions = SinusoidalPositions(longest, sizes.width) if sizes.sinusoids else None
        blocks = []
        for layer in range(sizes.layers):
            mixer = MultiHeadAttention(sizes.width, sizes.heads)
            mixer.set_attention(attention, layer=layer, longest=longest)
            norms = [LayerNorm(sizes.width), LayerNorm(sizes.width)]
            blocks.append(Block(mixer, FeedForward(sizes.width, sizes.hidden_width), norms, norm_first=True))
        self.stack = Stack(blocks, LayerNorm(sizes.width))
        self.head = nn.Linear(sizes.width, task.classes)

    def forward(self, ids: Tensor, real: Tensor | None, asked: Tensor) -> Tensor:
        """Scores of the classes; `asked` is (B, T) bool where tokens have labels, and is not looked at where texts have."""
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        x = self.embedding(ids)
        if self.positions is not None:
            x = x + self.positions(places)
        context = Context(AttentionMask(key_padding=real, causal=self.causal), positions=places)
        x = self.stack(x, context).output
        scores: Tensor = self.head(x[asked] if self.per_token else _mean(x, real))
        return scores


def equal_sizes(task: Task, sizes: TrunkSizes, attention: Any, longest: int) -> TrunkSizes:
    """With the feed-forward width that makes it as large as a model with softmax attention, as nearly as whole widths allow."""
    goal, found = (count(Trunk(task, sizes, spec, longest)) for spec in ("full", attention))
    surplus = round((found - goal) / (sizes.layers * (2 * sizes.width + 1)))
    return replace(sizes, hidden_width=max(1, sizes.hidden_width - surplus))


def count(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters())


def _mean(x: Tensor, real: Tensor | None) -> Tensor:
    """(B, T, D) -> (B, D)."""
    if real is None:
        return x.mean(dim=1)
    weights = real.unsqueeze(-1).to(x.dtype)
    return (x * weights).sum(dim=1) / weights.sum(dim=1)
