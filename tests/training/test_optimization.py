"""The schedules and the optimiser that fine-tuning scripts import."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from minitrans import (
    AdamW,
    get_constant_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_noam_schedule,
)


def rates(make: Callable[[torch.optim.Optimizer], LambdaLR], steps: int, lr: float = 1.0) -> list[float]:
    """The learning rate of each step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_noam_is_equation_3() -> None:
    got = rates(lambda optimizer: get_noam_schedule(optimizer, 512, 7), 30)
    expected = [512**-0.5 * min(step**-0.5, step * 7**-1.5) for step in range(1, 31)]
    assert got == pytest.approx(expected, rel=1e-14)
    assert max(got) == got[6] == pytest.approx((512 * 7) ** -0.5)  # the peak is the end of the warm-up
    assert got[13] == pytest.approx(got[6] / 2**0.5)


def test_noam_multiplies_the_learning_rate_and_goes_on_where_it_was() -> None:
    whole = rates(lambda optimizer: get_noam_schedule(optimizer, 64, 4), 12, lr=0.5)
    assert whole[0] == pytest.approx(0.5 * 64**-0.5 * 4**-1.5)
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "initial_lr": 0.5}], lr=0.5)
    get_noam_schedule(optimizer, 64, 4, last_epoch=8)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(whole[9])


@pytest.mark.parametrize(("width", "warmup"), [(0, 4), (64, 0), (64, -1)])
def test_noam_errors(width: int, warmup: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=f"must be at least 1, got {width} and {warmup}"):
        get_noam_schedule(optimizer, width, warmup)


@pytest.mark.parametrize(("warmup", "total"), [(0, 9), (4, 9), (9, 9)])
def test_linear_equals_the_reference(warmup: int, total: int) -> None:
    ours = rates(lambda optimizer: get_linear_schedule_with_warmup(optimizer, warmup, total), total + 3, lr=0.3)
    theirs = rates(
        lambda optimizer: transformers.get_linear_schedule_with_warmup(optimizer, warmup, total), total + 3, lr=0.3
    )
    assert ours == pytest.approx(theirs, rel=1e-14)
    assert ours[total:] == [0.0] * 3


@pytest.mark.parametrize("warmup", [0, 1, 5])
def test_constant_equals_the_reference(warmup: int) -> None:
    ours = rates(lambda optimizer: get_constant_schedule_with_warmup(optimizer, warmup), 9)
    theirs = rates(lambda optimizer: transformers.get_constant_schedule_with_warmup(optimizer, warmup), 9)
    assert ours == pytest.approx(theirs, rel=1e-14)


def test_errors() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match="need 0 <= num_warmup_steps <= num_training_steps, got 5 and 4"):
        get_linear_schedule_with_warmup(optimizer, 5, 4)
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        get_constant_schedule_with_warmup(optimizer, -1)


def test_adamw_is_torchs_with_the_defaults_of_fine_tuning_scripts() -> None:
    def trained(optimizer_of: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> torch.Tensor:
        weight = nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
        optimizer = optimizer_of([weight])
        for _ in range(3):
            optimizer.zero_grad()
            torch.autograd.backward(weight.pow(4).sum())
            optimizer.step()
        return weight.detach()

    ours = trained(AdamW)
    assert torch.equal(ours, trained(lambda p: torch.optim.AdamW(p, lr=1e-3, eps=1e-6, weight_decay=0.0)))
    assert not torch.equal(ours, trained(lambda p: torch.optim.AdamW(p, lr=1e-3, eps=1e-8, weight_decay=0.0)))
    assert not torch.equal(ours, trained(lambda p: torch.optim.AdamW(p, lr=1e-3, eps=1e-6, weight_decay=0.01)))
    groups = AdamW([{"params": [nn.Parameter(torch.zeros(1))], "weight_decay": 0.1}], lr=5e-5, fused=False).param_groups
    assert (groups[0]["weight_decay"], groups[0]["lr"]) == (0.1, 5e-5)
