"""The loop: forward, loss, backward, step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from minitrans.training.objective import Batch, Example, Objective, seed_from
from minitrans.training.optimization import AdamW, get_linear_schedule_with_warmup
from minitrans.training.settings import TrainingSettings

Evaluate = Callable[[nn.Module], Mapping[str, float]]


class Examples(Protocol):
    """What the loop needs to know of the data."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Example: ...


@dataclass
class Report:
    """What became of a run.

    Attributes:
        steps: of the optimiser, those before a restart included.
        losses: of each step of this run.
        metrics: what the last evaluation said.
        ended: why it ended: "done", "patience", "signal".
        folder: the newest checkpoint, if one was to be kept.
    """

    steps: int = 0
    losses: list[float] = field(default_factory=list)
    metrics: Mapping[str, float] = field(default_factory=dict)
    ended: str = "done"
    folder: Path | None = None


def train(
    model: nn.Module,
    objective: Objective,
    source: Examples,
    settings: TrainingSettings,
    *,
    evaluate: Evaluate | None = None,
    out: str | Path | None = None,
) -> Report:
    """Teaches `model` what `objective` says, on the examples of `source`.

    Args:
        model: of ours, or any that the objective can call.
        objective: what is learnt.
        source: the examples.
        settings: how.
        evaluate: called with the model, in evaluation mode and without gradients, at each evaluation; gives metrics by name.
        out: the folder for checkpoints and logs; None = nothing is written.
    """
    device = next(model.parameters()).device
    per_epoch = math.ceil(len(source) / settings.batch_size)
    total = min(settings.epochs * per_epoch, settings.max_steps or settings.epochs * per_epoch)
    optimizer = AdamW(model.parameters(), settings.learning_rate, settings.betas, settings.eps, settings.weight_decay)
    schedule = get_linear_schedule_with_warmup(optimizer, 0, total)
    report = Report()
    model.train()
    for epoch, parts in _steps(source, settings, total):
        torch.manual_seed(
            seed_from(settings.seed, report.steps)
        )  # dropout is that of the step, whatever came before it
        batches = [_batch(objective, source, settings, epoch, part) for part in parts]
        items = torch.stack([objective.items(batch) for batch in batches]).sum(dim=0).clamp(min=1).to(device)
        loss = 0.0
        for batch in batches:
            part = (objective.losses(model, {name: each.to(device) for name, each in batch.items()}) / items).sum()
            part.backward()
            loss += float(part.detach())
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        report.steps += 1
        report.losses.append(loss)
    return report


def _steps(source: Examples, settings: TrainingSettings, total: int) -> Iterator[tuple[int, list[Sequence[int]]]]:
    """The epoch and the micro-batches of each step."""
    done = 0
    for epoch in range(settings.epochs):
        order = torch.randperm(len(source), generator=_generator(settings.seed, epoch)).tolist()
        for start in range(0, len(source), settings.batch_size):
            if done == total:
                return
            whole = order[start : start + settings.batch_size]
            size = math.ceil(len(whole) / settings.accumulation)
            yield epoch, [whole[at : at + size] for at in range(0, len(whole), size)]
            done += 1


def _batch(
    objective: Objective, source: Examples, settings: TrainingSettings, epoch: int, indices: Sequence[int]
) -> Batch:
    epoch = 0 if settings.static else epoch
    return objective.collate([objective.prepare(source[at], _generator(settings.seed, epoch, at)) for at in indices])


def _generator(*seeds: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_from(*seeds))
