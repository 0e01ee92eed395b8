"""What the heads of a model look at, with the exact attention and with another one in its place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from minitrans.attention.rules import AttentionRules
from minitrans.attention.scores import dense_scores
from minitrans.lab.bench import Bench
from minitrans.lab.capture import heads_again, layer_calls, queries_keys_values
from minitrans.lab.passages import passages
from minitrans.lab.specs import Subject

_NOTHING = 1e-6  # weights of a row that sum to less attend to nothing


@torch.no_grad()
def diagnostics(bench: Bench, subject: Subject, seed: int, *, texts: int = 16, length: int = 128) -> dict[str, Any]:
    """Means over queries, by layer and head, in the model as it runs with the variant in all layers.

    Args:
        bench: with WikiText-2.
        subject: in all layers.
        seed: of the variant.
        texts: passages.
        length: of each, in tokens.

    Returns:
        Lists (L, H): "entropy" in nats; "support", exp(entropy) tokens; "first" and "last", the share of the first token and
        of the last, [CLS] and [SEP] in BERT; "logit", the largest scale · |q · k|, before biases and caps; "dead", the share
        of queries that attend to nothing. All shares are of the sizes of the weights. Lists of None where a layer has none.
    """
    with bench.swapped(subject.seeded(seed), seed):
        calls = layer_calls(bench, passages(bench, texts, length))
        weights = [heads.weights for heads in heads_again(bench, calls)]
        projected = queries_keys_values(bench, calls)
        scales = [AttentionRules(scale=block.scale) for block in bench.attentions]
        logits = [
            dense_scores(query, key, rules).abs().amax(dim=(0, 2, 3)).tolist()
            for rules, (query, key, _) in zip(scales, projected, strict=True)
        ]
    found: dict[str, Any] = {name: [] for name in ("entropy", "support", "first", "last", "dead")}
    for of_layer in weights:
        seen = {} if of_layer is None else _look(of_layer)
        for name, values in found.items():
            values.append(seen[name].mean(dim=(0, 2)).tolist() if seen else None)
    return {**found, "logit": logits}


def _look(weights: Tensor) -> dict[str, Tensor]:
    """(B, H, T, S) -> of each query (B, H, T)."""
    sizes = weights.abs().double()
    sums = sizes.sum(dim=-1)
    shares = sizes / sums.clamp(min=_NOTHING)[..., None]
    entropy = -torch.xlogy(shares, shares).sum(dim=-1)
    return {
        "entropy": entropy, "support": entropy.exp(), "first": shares[..., 0], "last": shares[..., -1],
        "dead": (sums < _NOTHING).double(),
    }  # fmt: skip
