"""In which precision a step is computed, and what becomes of gradients that are not finite."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
HIGHEST, GROWTH_EVERY = 2.0**16, 2000  # of the scale, as of the paper's tool; good steps until it doubles


class NonFiniteError(ValueError):
    """A loss or a gradient is infinite or no number, and the precision is not why."""


class Precision:
    """Forward passes under autocast, and for fp16 a scale of the loss, so that small gradients are not rounded to zero.

    A step with gradients that are not finite is left out under fp16 and the scale is halved; after 2000 good steps it doubles
    (Micikevicius et al. 2018, "Mixed Precision Training", section 3.2). The norm of all gradients tells, which is the same on all
    ranks: the weights, moments and norms stay in float32.

    Args:
        name: "float32", "bf16" or "fp16".
        device: where it is computed.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.dtype, self.device = DTYPES.get(name), device
        self.scale, self.good_steps = (HIGHEST if name == "fp16" else 1.0), 0

    def autocast(self) -> AbstractContextManager[Any]:
        """In which the model is called."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)

    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Takes the scale out of the gradients."""
        if self.scale != 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(self.scale)

    def accepts(self, norm: float) -> bool:
        """Whether a step with this norm of all gradients is to be done.

        Raises:
            NonFiniteError: where the norm is not finite, and no smaller scale would help.
        """
        finite = norm < float("inf")
        if not finite and (self.dtype is not torch.float16 or self.scale <= 1):
            raise NonFiniteError(f"the gradients are not finite (norm {norm})")
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.scale /= 2
        elif self.dtype is torch.float16 and self.good_steps % GROWTH_EVERY == 0:
            self.scale = min(2 * self.scale, HIGHEST)
        return finite

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps of it."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def load(self, state: dict[str, float]) -> None:
        """Goes on from there."""
        self.scale, self.good_steps = float(state["scale"]), int(state["good_steps"])
