"""Trained from scratch, at equal parameters: the same trunk and examples for each variant, the rate that suits it.

Compute is equal too: as many steps, or as many counted operations, so that a cheaper variant sees more examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from minitrans.lab.bench import CPU, Bench
from minitrans.lab.flops import counted
from minitrans.lab.specs import Subject
from minitrans.lab.tasks.table import make_task
from minitrans.lab.tasks.task import Examples, Task
from minitrans.lab.train import Look, Training, hits, loss_of, questions, score, train
from minitrans.lab.trunk import Trunk, TrunkSizes, count, equal_sizes

_COUNTED = 4  # texts in which operations are counted
CHOOSING, SCORING = 2**40, 2**40 + 1  # seeds of the examples that choose a rate, and of those that are reported


@dataclass(frozen=True)
class Fit:
    """A model after its training, at one rate."""

    training: Training
    model: Trunk
    curve: list[Look]


def scratch(
    bench: Bench, subject: Subject, seed: int, *, task: str = "mqar", steps: int = 1000, batch: int = 64, length: int = 0,
    rates: str = "0.003", width: int = 64, heads: int = 1, layers: int = 2, hidden: int = 128,
    sinusoids: bool = True, examples: int = 512, enough: float = 100.0, equal: str = "steps",
) -> dict[str, Any]:  # fmt: skip
    """Accuracy on examples that were not trained on, by learning rate; length 0 is the task's own.

    "score" is at the rate that is best on other examples; "hits" has the right answers of each example, for the bootstrap.
    With `equal="flops"` the steps are those in which softmax attention takes as many operations in `steps`; "flops" has what
    all of them take.
    """
    if equal not in ("steps", "flops"):
        raise ValueError(f"equal: expected steps or flops, got {equal!r}")
    made = make_task(task, bench.files)
    sizes = TrunkSizes(width, heads, layers, hidden, sinusoids)
    longest = length or made.length
    own, exact = (step_flops(made, sizes, spec, batch, longest) for spec in (subject.seeded(seed), "full"))
    if equal == "flops":
        steps = max(1, round(steps * exact / own))
    trainings = [Training(steps, batch, longest, rate, enough=enough) for rate in read_rates(rates)]
    asked = held_out(made, examples, longest, SCORING)
    found: dict[str, Any] = {}
    for fit in fits(made, sizes, subject.seeded(seed), trainings, examples, longest, bench.device, seed):
        right = hits(fit.model, asked)
        curve = [(look.step, look.seconds, look.score) for look in fit.curve]
        found[str(fit.training.rate)] = {"score": score(right, asked), "curve": curve, "hits": right}
    best = max(found, key=lambda rate: found[rate]["curve"][-1][2])
    return {
        "score": found[best]["score"], "rate": best, "rates": found, "questions": questions(asked), "length": longest,
        "parameters": count(fit.model), "hidden_width": fit.model.hidden_width, "steps": steps, "flops": steps * own,
    }  # fmt: skip


def fits(
    task: Task, sizes: TrunkSizes, spec: Any, trainings: list[Training], examples: int, longest: int, device: torch.device,
    seed: int,
) -> Iterator[Fit]:  # fmt: skip
    """A training after the other, each from the same beginning; `longest` is the longest text a model will ever see."""
    chosen_on = held_out(task, examples, trainings[0].length, CHOOSING)
    with torch.random.fork_rng():
        for training in trainings:
            torch.manual_seed(seed)
            model = Trunk(task, equal_sizes(task, sizes, spec, longest), spec, longest).to(device)
            yield Fit(training, model, train(model, task, training, chosen_on, seed))


def step_flops(task: Task, sizes: TrunkSizes, spec: Any, batch: int, longest: int) -> float:
    """Operations of a step, forward and backward, on texts of the task."""
    with torch.random.fork_rng():
        model = Trunk(task, equal_sizes(task, sizes, spec, longest), spec, longest)
    texts = task.train(_COUNTED, longest, torch.Generator().manual_seed(CHOOSING))
    blocks = [block.attention for block in model.stack.layer]

    def step() -> None:
        loss_of(model, texts, CPU).backward()  # type: ignore[no-untyped-call]

    return counted(blocks, step) * batch / _COUNTED


def held_out(task: Task, number: int, length: int, seed: int) -> Examples:
    """The same for every variant."""
    return task.held_out(number, length, torch.Generator().manual_seed(seed))


def read_rates(text: str) -> list[float]:
    """ "0.001,0.003" -> learning rates. Raises ValueError for other than numbers above 0."""
    rates = [float(word) for word in text.split(",")]
    if min(rates) <= 0:
        raise ValueError(f"learning rates are above 0, got {text}")
    return rates
