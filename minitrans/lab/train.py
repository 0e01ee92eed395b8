"""One training from scratch: AdamW, the rate up and down in straight lines, the loss of what is asked; and the score after it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from minitrans.lab.tasks.task import NOT_ASKED, Examples, Task
from minitrans.lab.trunk import Trunk
from minitrans.training.optimization import AdamW, get_linear_schedule_with_warmup

WARM_UP, WEIGHT_DECAY, LONGEST_STEP = 0.1, 0.01, 1.0  # a share of the steps; of AdamW; norm of the gradient


@dataclass(frozen=True)
class Training:
    """How long, and on how much.

    Attributes:
        steps: of the optimiser.
        batch: texts a step.
        length: T.
        rate: the highest learning rate.
        looks: how often the score is looked at on the way.
        enough: a score, of 100, with which it ends before its last step.
    """

    steps: int
    batch: int
    length: int
    rate: float
    looks: int = 10
    enough: float = 100.0


@dataclass(frozen=True)
class Look:
    """At a model on the way: how many steps it has done, in how many seconds (without the looks), and its score."""

    step: int
    seconds: float
    score: float


def train(model: Trunk, task: Task, training: Training, chosen_on: Examples, seed: int) -> list[Look]:
    """In place, on the device of the model, on a GPU under autocast to bfloat16; returns the curve, its end at last."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    optimizer = AdamW(model.parameters(), lr=training.rate, weight_decay=WEIGHT_DECAY)
    schedule = get_linear_schedule_with_warmup(optimizer, round(WARM_UP * training.steps), training.steps)
    every = max(1, training.steps // training.looks)
    curve, seconds = [], 0.0
    for step in range(1, training.steps + 1):
        start = time.perf_counter()
        loss = loss_of(model, task.train(training.batch, training.length, generator), device)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), LONGEST_STEP)
        optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - start
        if step % every == 0 or step == training.steps:
            curve.append(Look(step, round(seconds, 1), score(hits(model, chosen_on), chosen_on)))
            if curve[-1].score >= training.enough:
                break
    return curve


def loss_of(model: Trunk, batch: Examples, device: torch.device) -> Tensor:
    """Cross-entropy of what is asked, mean."""
    asked = batch.labels != NOT_ASKED
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        scores = model(batch.ids.to(device), _to(batch.real, device), asked.to(device))
    return cross_entropy(scores.float(), batch.labels[asked].to(device))


def hits(model: Trunk, examples: Examples, at_once: int = 64) -> list[int]:
    """How many of the answers to each example are right."""
    device = next(model.parameters()).device
    model.eval()
    right = torch.zeros_like(examples.labels, dtype=torch.bool)
    with torch.inference_mode():
        for part in torch.split(torch.arange(len(examples.ids)), at_once):
            labels = examples.labels[part]
            asked = labels != NOT_ASKED
            real = None if examples.real is None else examples.real[part]
            scores = model(examples.ids[part].to(device), _to(real, device), asked.to(device))
            found = torch.zeros_like(asked)
            found[asked] = scores.argmax(dim=-1).cpu() == labels[asked]
            right[part] = found
    model.train()
    counts: list[int] = right.reshape(len(right), -1).sum(dim=-1).tolist()
    return counts


def questions(examples: Examples) -> list[int]:
    """How many of each example."""
    asked = examples.labels != NOT_ASKED
    counts: list[int] = asked.reshape(len(asked), -1).sum(dim=-1).tolist()
    return counts


def score(right: list[int], examples: Examples) -> float:
    """Per cent of all that is asked."""
    return 100 * sum(right) / sum(questions(examples))


def _to(x: Tensor | None, device: torch.device) -> Tensor | None:
    return None if x is None else x.to(device)
