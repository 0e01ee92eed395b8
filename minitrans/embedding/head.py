"""From the vectors of a text's tokens to one: pooling, then what some sentence-transformers folders put after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitrans.embedding.options import Call

POOLINGS = ("mean", "cls", "max", "mean_sqrt_len", "weightedmean", "lasttoken")
_HALVES = (torch.float16, torch.bfloat16)
# The name in config.json -> what it means here. The name is never imported.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.nn.modules.activation.Tanh": torch.tanh,
    "torch.nn.modules.linear.Identity": lambda x: x,
}


def pool(states: Tensor, mask: Tensor, pooling: str, skipped: int = 0) -> Tensor:
    """(B, T, D) and (B, T), True = a token, to (B, D); padding takes no part, on whichever side it is.

    Sums of half-precision states are made, and returned, in float32.

    Args:
        states: of the last layer.
        mask: where there are tokens.
        pooling: "mean"; "cls", the first token; "max" of each coordinate; "mean_sqrt_len", the sum over the square root of
            the count; "weightedmean", token t counting t + 1 times (Muennighoff 2022, "SGPT"); "lasttoken".
        skipped: how many tokens at the beginning of each row take no part either; they count for t.
    """
    number = mask.cumsum(dim=1)  # 1, 2, 3, ... from the first token
    mask = mask & (number > skipped)
    rows = torch.arange(len(states), device=states.device)
    if pooling == "cls":
        return states[rows, mask.int().argmax(dim=1)]
    if pooling == "lasttoken":
        return states[rows, mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)]
    if pooling == "max":
        return states.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(dim=1)
    exact = torch.float32 if states.dtype in _HALVES else states.dtype
    weights = mask.to(exact)  # (B, T)
    if pooling == "weightedmean":
        weights = weights * number
    total = (states.to(exact) * weights.unsqueeze(-1)).sum(dim=1)  # (B, D)
    count = weights.sum(dim=1, keepdim=True).clamp(min=1)  # (B, 1)
    return total / (count.sqrt() if pooling == "mean_sqrt_len" else count)


class Dense(nn.Module):
    """activation(x W^T + b).

    Args:
        weight: (out, in).
        bias: (out), or None.
        activation: a key of ACTIVATIONS.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, in) -> (B, out)"""
        return ACTIVATIONS[self.activation](F.linear(x, self.weight, self.bias))


class Normalize(nn.Module):
    """Every vector to length 1."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D)"""
        return F.normalize(x, dim=-1)


class Head(nn.Module):
    """The pooling and the layers after it.

    Args:
        kinds: "Dense" and "Normalize", in their order.
        dense: the layers of the first kind.
    """

    def __init__(self, kinds: Sequence[str], dense: Sequence[Dense]) -> None:
        super().__init__()
        rest = iter(dense)
        self.layers = nn.ModuleList(Normalize() if kind == "Normalize" else next(rest) for kind in kinds)
        self.ends_normalized = kinds[-1:] == ["Normalize"]

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Moves the layers to where the vectors are made, and to their dtype."""
        self.to(device, dtype)
        self.dtype = dtype

    def forward(self, states: Tensor, mask: Tensor, call: Call) -> Tensor:
        """(B, T, D) and (B, T) to (B, out): the poolings joined, then the layers; the call may rule a Normalize at their end."""
        x = torch.cat([pool(states, mask, name, call.skipped) for name in call.pooling], dim=-1).to(self.dtype)
        for layer in list(self.layers)[: len(self.layers) - (self.ends_normalized and call.normalize is not None)]:
            x = layer(x)
        x = x[:, : call.truncate_dim]
        return F.normalize(x, dim=-1) if call.normalize else x

    def out_width(self, width: int, poolings: Sequence[str]) -> int:
        """How many numbers a vector has, of states that have D = `width`. Raises ValueError where the layers do not fit."""
        width *= len(poolings)
        for layer in self.layers:
            if isinstance(layer, Dense):
                out, needed = layer.weight.shape
                if width != needed:
                    raise ValueError(
                        f"pooling: {', '.join(poolings)} gives {width} numbers, the Dense layer after it takes {needed}"
                    )
                width = out
        return width
