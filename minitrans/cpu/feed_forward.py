"""The position-wise feed-forward network, and the sum with what runs past it, in floats or in 8-bit integers."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans.cpu.linear import LEAST_OF_POSTS, POSTS, EvenLinear, FloatLinear, IntegerLinear
from minitrans.layers.feed_forward import FeedForward

_KEPT = 16
_MARGIN = 2.0  # how much further a feature may reach than it was seen to


class FloatFeedForward:
    """down(act(up(x))) + other.

    Args:
        network: whose weights to take; they are copied.
        dtype: float32 or bfloat16.
    """

    def __init__(self, network: FeedForward, dtype: torch.dtype) -> None:
        post = POSTS.get(network.act)
        self.activation = network.act if post is None else None
        (up, of_up), (down, of_down) = (_parameters(linear, dtype) for linear in (network.up, network.down))
        self.up = FloatLinear(up, of_up) if post is None else FloatLinear(up, of_up, post)
        self.down = FloatLinear(down, of_down)

    def __call__(self, x: Tensor, other: Tensor) -> Tensor:
        """(N, D) and (N, D) -> (N, D)."""
        hidden = self.up(x)
        return self.down(hidden if self.activation is None else self.activation(hidden), other)


class IntegerFeedForward:
    """The same in 8-bit integers, the hidden features too, which never leave them.

    One or two hidden features reach several times as far as all others, for any text. So the 16 that reach furthest are computed
    in float32 (Dettmers et al. 2022, "LLM.int8()", section 3.2), and the others have a scale that is known before the call.

    Args:
        network: whose weights to take; they are copied. Its activation is one of `linear.POSTS`.
        reach: (D) of the inputs of its up and (F) of its down projection.
    """

    def __init__(self, network: FeedForward, reach: tuple[Tensor, Tensor]) -> None:
        post = POSTS[network.act]
        (up, of_up), (down, of_down) = (_parameters(linear, torch.float32) for linear in (network.up, network.down))
        of_input, of_hidden = reach
        far = of_hidden.topk(min(_KEPT, len(of_hidden) - 1)).indices
        self.far_up = FloatLinear(up[far], None if of_up is None else of_up[far], post)
        self.far_down = down[:, far].T.contiguous()
        near = torch.ones_like(of_hidden).index_fill_(0, far, 0.0)
        self.up = EvenLinear(up, of_up, of_input, post)
        self.down = IntegerLinear(down * near, of_down)
        self.scale = ((of_hidden * near).max().item() * _MARGIN - LEAST_OF_POSTS) / 255
        self.zero = round(-LEAST_OF_POSTS / self.scale)

    def __call__(self, x: Tensor, other: Tensor) -> Tensor:
        """(N, D) and (N, D) -> (N, D), in the memory of `other`."""
        hidden = self.up.linear.integers(self.up.quantise(x), self.scale, self.zero)
        return self.down(hidden, other.addmm_(self.far_up(x), self.far_down))


def _parameters(linear: torch.nn.Linear, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    bias = None if linear.bias is None else linear.bias.detach().to(dtype, copy=True)
    return linear.weight.detach().to(dtype), bias
