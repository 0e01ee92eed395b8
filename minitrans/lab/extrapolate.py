"""Longer than in training: the score of a model that never saw such lengths (Press et al. 2022, "Train Short, Test Long")."""

from __future__ import annotations

from typing import Any

from minitrans.lab.bench import Bench
from minitrans.lab.scratch import SCORING, fits, held_out, read_rates
from minitrans.lab.specs import Subject
from minitrans.lab.tasks.table import make_task
from minitrans.lab.train import Training, hits, score
from minitrans.lab.trunk import TrunkSizes


def extrapolate(
    bench: Bench, subject: Subject, seed: int, *, task: str = "mqar", steps: int = 1000, batch: int = 64, length: int = 0,
    times: str = "1,2,4,8", rates: str = "0.003", width: int = 64, heads: int = 1, layers: int = 2, hidden: int = 128,
    sinusoids: bool = False, examples: int = 256, enough: float = 100.0,
) -> dict[str, Any]:  # fmt: skip
    """Accuracy at multiples of the length of training, with the rate that is best at that length; "score" is that at the longest.

    Without `sinusoids` nothing but the attention tells places: causal softmax attention then is "NoPE" (Kazemnejad et al. 2023).
    """
    made = make_task(task, bench.files)
    trained = length or made.length
    lengths = [trained * int(word) for word in times.split(",")]
    sizes = TrunkSizes(width, heads, layers, hidden, sinusoids)
    trainings = [Training(steps, batch, trained, rate, enough=enough) for rate in read_rates(rates)]
    every = fits(made, sizes, subject.seeded(seed), trainings, examples, max(lengths), bench.device, seed)
    best = max(every, key=lambda fit: fit.curve[-1].score)
    scores = {}
    for each in lengths:
        asked = held_out(made, examples, each, SCORING)
        scores[str(each)] = score(hits(best.model, asked, at_once=max(1, 64 * trained // each)), asked)
    return {"score": scores[str(max(lengths))], "scores": scores, "trained": trained, "rate": best.training.rate}
