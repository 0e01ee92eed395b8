"""How near the attention of each layer and head comes to the exact one, on what the exact model gives it.

An error says little by itself: the mean of all values, which attends to nothing, is off by 0.8 to 0.9 in MiniLM. So errors are
relative to that floor, too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minitrans.lab.bench import Bench
from minitrans.lab.capture import heads_again, layer_calls, queries_keys_values
from minitrans.lab.passages import passages
from minitrans.lab.specs import Subject


@torch.no_grad()
def fidelity(
    bench: Bench, subject: Subject, seed: int, *, texts: int = 16, length: int = 128, top: int = 8
) -> dict[str, Any]:
    """Relative errors |O' - O| / |O| by layer and by head, against the floor; divergence and recall of the probabilities.

    Args:
        bench: with WikiText-2.
        subject: in every layer, each on its own.
        seed: of the variant.
        texts: passages.
        length: of each, in tokens.
        top: of so many keys with the highest exact probability, how many are among so many of the variant's.

    Returns:
        "error", "floor", "ratio" (of the two), means over the layers of lists "errors", "floors"; "heads", the ratios by
        layer and head; "divergence", KL(exact, variant) in nats with what the variant gives made to sum to one, and
        "recall", means; None where the variant has no probabilities, or negative ones.
    """
    calls = layer_calls(bench, passages(bench, texts, length))
    exact = heads_again(bench, calls)
    values = [value for _, _, value in queries_keys_values(bench, calls)]
    with bench.swapped(subject.seeded(seed), seed):
        found = heads_again(bench, calls)
    errors, floors, heads, divergences, recalls = [], [], [], [], []
    for one, other, value in zip(exact, found, values, strict=True):
        group = one.output.shape[2] // value.shape[1]
        mean = value.mean(dim=2, keepdim=True).transpose(1, 2).repeat_interleave(group, dim=2)  # (B, 1, H, K)
        size, error, floor = (_of_heads(x) for x in (one.output, other.output - one.output, mean - one.output))
        errors.append(_ratio(error.sum(), size.sum()))
        floors.append(_ratio(floor.sum(), size.sum()))
        heads.append([_ratio(*pair) for pair in zip(error, floor, strict=True)])
        p, q = one.weights, other.weights
        if p is not None and q is not None and p.shape == q.shape and bool((q >= 0).all()):
            divergences.append(_divergence(p, q))
            recalls.append(_recall(p, q, min(top, p.shape[-1])))
    ratios = [error / floor for error, floor in zip(errors, floors, strict=True)]
    return {
        "error": _mean(errors), "floor": _mean(floors), "ratio": _mean(ratios), "errors": errors, "floors": floors,
        "heads": heads, "divergence": _mean(divergences), "recall": _mean(recalls),
    }  # fmt: skip


def _of_heads(x: Tensor) -> Tensor:
    """(B, T, H, K) -> (H), the squares summed."""
    return x.double().square().sum(dim=(0, 1, 3))


def _ratio(error: Tensor, size: Tensor) -> float:
    return float((error / size).sqrt())


def _divergence(p: Tensor, q: Tensor) -> float:
    """Mean over the queries; a probability of the variant counts as at least 1e-12."""
    q = (q / q.sum(dim=-1, keepdim=True).clamp(min=1e-12)).clamp(min=1e-12)
    return float(torch.xlogy(p, p / q).sum(dim=-1).mean())


def _recall(p: Tensor, q: Tensor, top: int) -> float:
    """A key that the variant gives nothing is none of its best."""
    best = torch.zeros_like(q, dtype=torch.bool).scatter(-1, q.topk(top).indices, True) & (q > 0)
    return float(best.gather(-1, p.topk(top).indices).double().mean())


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
