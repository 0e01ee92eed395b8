"""What a swap into pretrained weights costs before any training: in all layers, in each one alone, in the top half."""

from __future__ import annotations

from typing import Any

from minitrans.lab.bench import Bench
from minitrans.lab.specs import Subject


def swap(bench: Bench, subject: Subject, seed: int) -> dict[str, Any]:
    """All layers: the score of the task, the mean cosine to the vectors of the exact model, and what was made fresh."""
    with bench.swapped(subject.seeded(seed), seed) as fresh:
        score, vectors = bench.score()
        count = sum(bench.encoder.model.get_parameter(name).numel() for name in fresh)
    cosine = float((vectors * bench.exact[1]).sum(-1).mean())
    return {"score": score, "exact": bench.exact[0], "cosine": cosine, "fresh": fresh, "fresh_numbers": count}


def layers(bench: Bench, subject: Subject, seed: int, *, pairs: int = 0) -> dict[str, Any]:
    """Scores with one layer swapped, by layer; and with the upper half of them. On so many pairs, evenly out of all; 0 = all."""
    spec, count = subject.seeded(seed), bench.layers
    return {
        "each": [_score(bench, {"layers": {str(layer): spec}}, seed, pairs) for layer in range(count)],
        "exact": bench.exact_on(pairs)[0],
        "top_half": _score(bench, {"layers": {f"{count // 2}-": spec}}, seed, pairs),
    }


def _score(bench: Bench, spec: Any, seed: int, pairs: int) -> float:
    with bench.swapped(spec, seed):
        return bench.score(pairs)[0]
