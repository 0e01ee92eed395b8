"""A linear probe: logistic regression on frozen vectors, for tasks that a checkpoint has no head for (Alain & Bengio 2017).

Each task gives two scores. "score" is of the probe that was fitted to the vectors of the exact model: how much the swap moves
them. "refitted" is of one that was fitted to those of the swapped model: how much is still in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from minitrans.lab.bench import Bench
from minitrans.lab.specs import Subject

DECAY, ITERATIONS = 1e-3, 60


@dataclass(frozen=True, eq=False)
class Probe:
    """(N, D) vectors -> (N) classes.

    Attributes:
        mean, deviation: (D), of the vectors it was fitted to.
        weight: (D + 1, classes), the bias last.
    """

    mean: Tensor
    deviation: Tensor
    weight: Tensor

    def __call__(self, vectors: Tensor) -> Tensor:
        """The likeliest class of each."""
        return (self._scaled(vectors) @ self.weight[:-1] + self.weight[-1]).argmax(dim=-1)

    def _scaled(self, vectors: Tensor) -> Tensor:
        return (vectors.double() - self.mean) / self.deviation


def fit(vectors: Tensor, labels: Tensor, classes: int) -> Probe:
    """By L-BFGS in float64, from 0, with `DECAY` times the square of the weights: the same numbers every time."""
    wide = vectors.double()
    empty = Probe(
        wide.mean(dim=0), wide.std(dim=0) + 1e-9, torch.zeros(wide.shape[1] + 1, classes, dtype=torch.float64)
    )
    scaled, weight = empty._scaled(vectors), empty.weight.requires_grad_()
    optimizer = torch.optim.LBFGS([weight], max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        value = cross_entropy(scaled @ weight[:-1] + weight[-1], labels) + DECAY * weight[:-1].square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value.item()

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Probe(empty.mean, empty.deviation, weight.detach())


@dataclass(frozen=True)
class Probed:
    """A task for a probe; two of the same name and number are the same.

    Attributes:
        name: of the section.
        number: of examples to fit it to.
        read: (bench, number) -> the examples to fit to, those to score on: texts or words, and labels (N).
        vectors: (bench, texts or words) -> (N, D), of the model as it is.
        judge: (classes that were found, the examples) -> a score of 100.
        classes: how many.
    """

    name: str
    number: int
    read: Callable[[Bench, int], tuple[tuple[Any, Tensor], tuple[Any, Tensor]]]
    vectors: Callable[[Bench, Any], Tensor]
    judge: Callable[[Sequence[int], Any, Tensor], float]
    classes: int


def probed(bench: Bench, subject: Subject, seed: int, task: Probed) -> dict[str, Any]:
    """The two scores of a variant in all layers, and that of the exact model."""
    (train, train_labels), (test, labels) = task.read(bench, task.number)
    probe, exact = _exact(bench, task)
    with bench.swapped(subject.seeded(seed), seed):
        found = task.vectors(bench, test)
        refitted = fit(task.vectors(bench, train), train_labels, task.classes)
    scores = [task.judge(each(found).tolist(), test, labels) for each in (probe, refitted)]
    return {"score": scores[0], "refitted": scores[1], "exact": exact, "fitted_to": len(train_labels)}


@lru_cache(maxsize=4)
def _exact(bench: Bench, task: Probed) -> tuple[Probe, float]:
    """The probe of the exact model, which all variants share, and its score."""
    (train, train_labels), (test, labels) = task.read(bench, task.number)
    probe = fit(task.vectors(bench, train), train_labels, task.classes)
    return probe, task.judge(probe(task.vectors(bench, test)).tolist(), test, labels)
