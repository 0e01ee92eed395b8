"""The optimiser and the schedules that fine-tuning scripts import."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class AdamW(torch.optim.AdamW):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), with the defaults fine-tuning scripts count on.

    It is torch's own; only the defaults differ (eps 1e-6 instead of 1e-8, no weight decay instead of 0.01).

    Args:
        params: parameters, or groups of them as dicts.
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to the root of the second moment.
        weight_decay: per step, times the learning rate.
        options: those of `torch.optim.AdamW`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, **options)


DECAY = 0.2  # the share of a training in which WSD falls

# What becomes of the learning rate after its linear rise: (step, steps of the rise, of the whole training) -> its factor.
SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "constant": lambda step, warmup, total: 1.0,
    "linear": lambda step, warmup, total: (total - step) / max(1, total - warmup),
    "cosine": lambda step, warmup, total: (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2,
    # Vaswani et al. 2017, section 5.3, with a peak of 1
    "inverse_sqrt": lambda step, warmup, total: math.sqrt(max(1, warmup) / max(1, step)),
    # warm-up, stable, decay (Hu et al. 2024, "MiniCPM", section 4)
    "wsd": lambda step, warmup, total: min(1.0, (total - step) / (DECAY * max(1, total - warmup))),
}


def get_schedule(name: str, optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int) -> LambdaLR:
    """A row of SCHEDULES, after a linear rise from 0; past the last step the rate stays what it was there.

    Args:
        name: of the row.
        optimizer: whose learning rates are multiplied.
        num_warmup_steps: steps of the rise.
        num_training_steps: steps of the whole training.

    Raises:
        ValueError: for another name, negative counts, or a warm-up longer than the training.
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {name!r}")
    _check_steps(num_warmup_steps, num_training_steps)
    return _after_warmup(SCHEDULES[name], optimizer, num_warmup_steps, num_training_steps, -1)


def go_on(schedule: LambdaLR, step: int) -> None:
    """Sets a schedule, and the rates of its optimiser, to where they are after so many steps."""
    schedule.last_epoch = step
    rates = [base * factor(step) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates


def _check_steps(num_warmup_steps: int, num_training_steps: int) -> None:
    if not 0 <= num_warmup_steps <= num_training_steps:
        got = f"{num_warmup_steps} and {num_training_steps}"
        raise ValueError(f"need 0 <= num_warmup_steps <= num_training_steps, got {got}")


def _after_warmup(
    shape: Callable[[int, int, int], float], optimizer: Optimizer, warmup: int, total: int, last: int
) -> LambdaLR:
    def factor(step: int) -> float:
        return step / warmup if step < warmup else shape(min(step, max(total, warmup)), warmup, total)

    return LambdaLR(optimizer, factor, last)


def get_linear_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> LambdaLR:
    """The learning rate rises linearly from 0 over the warm-up, then falls linearly to 0 at the last step.

    Args:
        optimizer: whose learning rates are multiplied.
        num_warmup_steps: steps of the rise.
        num_training_steps: steps of the whole training.
        last_epoch: the last step done, when training goes on from a checkpoint.

    Raises:
        ValueError: for negative counts, or a warm-up longer than the training.
    """
    _check_steps(num_warmup_steps, num_training_steps)
    return _after_warmup(SCHEDULES["linear"], optimizer, num_warmup_steps, num_training_steps, last_epoch)


def get_constant_schedule_with_warmup(optimizer: Optimizer, num_warmup_steps: int, last_epoch: int = -1) -> LambdaLR:
    """The learning rate rises linearly from 0 over the warm-up, then stays.

    Args:
        optimizer: whose learning rates are multiplied.
        num_warmup_steps: steps of the rise.
        last_epoch: the last step done, when training goes on from a checkpoint.

    Raises:
        ValueError: for a negative count.
    """
    if num_warmup_steps < 0:
        raise ValueError(f"num_warmup_steps must not be negative, got {num_warmup_steps}")
    return _after_warmup(SCHEDULES["constant"], optimizer, num_warmup_steps, num_warmup_steps, last_epoch)


def get_noam_schedule(optimizer: Optimizer, width: int, num_warmup_steps: int, last_epoch: int = -1) -> LambdaLR:
    """D^-0.5 · min(step^-0.5, step · warmup^-1.5), steps counted from 1 (Vaswani et al. 2017, section 5.3, equation 3).

    It multiplies the optimiser's learning rate: give that one `lr=1.0` to get the paper's numbers.

    Args:
        optimizer: whose learning rates are multiplied.
        width: D.
        num_warmup_steps: steps of the linear rise; after them it falls with the inverse root of the step.
        last_epoch: the last step done, when training goes on from a checkpoint.

    Raises:
        ValueError: for a width or a warm-up below 1.
    """
    if width < 1 or num_warmup_steps < 1:
        raise ValueError(f"width and num_warmup_steps must be at least 1, got {width} and {num_warmup_steps}")

    def factor(steps_done: int) -> float:
        step = steps_done + 1
        return float(width**-0.5 * min(step**-0.5, step * num_warmup_steps**-1.5))

    return LambdaLR(optimizer, factor, last_epoch)
