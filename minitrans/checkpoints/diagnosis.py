"""Why does a module differ? Known mistakes are made in plain formulas, one at a time, and the one that explains it is named.

The module's reference inputs are replayed, so that one module is judged and not what came before it. A cause is named only
if its result equals the observed output to 1e-8; otherwise the answer is "unknown".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from minitrans.checkpoints.formulas import Recipe, Weights
from minitrans.checkpoints.stages import Evidence, Stage
from minitrans.layers.activations import ACTIVATIONS

EQUAL = 1e-8
EPSILONS = (1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-3)
Candidate = tuple[str, Recipe, Weights]


# Knob by knob: what is said, and the fields of Recipe that say it.
EMBEDDING_KNOBS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((f"positions are off by {n:+d}", {"offset": n}) for n in (-2, -1, 1, 2)),
    *((f"positions run {rule}", {"positions": rule}) for rule in ("from padding_idx + 1", "skipping padding")),
    ("positions run from 0 and count padding", {"positions": "running"}),
    ("position embeddings are missing", {"positions": "none"}),
    ("token types are missing", {"types": "none"}),
    ("token types are all taken for the first", {"types": "all the first"}),
    ("token types are exchanged", {"types": "exchanged"}),
)
ATTENTION_KNOBS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("the scores are not scaled", {"scale": "none"}),
    ("the scores are scaled by the model's width, not the head's", {"scale": "width"}),
    ("the scores are scaled by 1 / K, not by its root", {"scale": "square"}),
    ("padding is attended to", {"mask": "attended"}),
    ("the mask is inverted", {"mask": "inverted"}),
    ("the mask is added to the scores as it is", {"mask": "added as it is"}),
    *((f"the mask's constant is {c:g}: padding is attended to", {"mask": c}) for c in (-1.0, -10.0, -100.0, 1.0)),
    ("attention is causal", {"causal": True}),
    ("attention is not causal", {"causal": False}),
    ("heads are split in the wrong order", {"split": "interleaved"}),
    ("the softmax runs over the queries", {"normalised": "queries"}),
    ("the residual sum is missing", {"residual": False}),
    ("the scores of distances are missing", {"distances": "none"}),
    ("the scores of distances are the same before and after a token", {"distances": "one side"}),
    ("the scores of distances before and after a token are exchanged", {"distances": "exchanged"}),
    *((f"the distances of the scores grow up to {n}, not 128", {"longest": n}) for n in (16, 32, 64, 256, 512)),
)
RESIDUAL_KNOBS: tuple[tuple[str, dict[str, Any]], ...] = (("the residual sum is missing", {"residual": False}),)
PLACE_KNOBS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("the norm comes before the sub-layer, not after the sum", {"norm_at": "before"}),
    ("the norm comes after the sum, not before the sub-layer", {"norm_at": "after"}),
)
NORM_KNOBS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((f"the eps of LayerNorm is {eps:g}", {"eps": eps}) for eps in EPSILONS),
    ("LayerNorm is not applied", {"norm": "none"}),
    ("LayerNorm divides the variance by n - 1", {"norm": "n - 1"}),
    ("LayerNorm adds eps outside the root", {"norm": "eps outside"}),
)
ACTIVATION_KNOBS = tuple((f"the activation is {name}", {"act": name}) for name in ACTIVATIONS)
POOLER_KNOBS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("the pooler has no tanh", {"pooled_act": "linear"}),
    *((f"the pooler's activation is {name}", {"pooled_act": name}) for name in ACTIVATIONS if name != "linear"),
    ("the last token is pooled, not the first", {"pooled": "last"}),
    ("the mean of the tokens is pooled, not the first", {"pooled": "mean"}),
)
HEAD_KNOBS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((f"the activation before the scores is {name}", {"pooled_act": name}) for name in ACTIVATIONS),
    *POOLER_KNOBS[-2:],
    *ACTIVATION_KNOBS,
)
SOURCE_KNOBS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("the head reads the pooled vector", {"source": "pooled"}),
    ("the head reads the first token as it is", {"source": "first token"}),
)


def likely_cause(evidence: Evidence) -> str:
    """One line: the mistake that explains the difference, or "unknown"."""
    try:
        return _cause(Stage(evidence))
    except (KeyError, RuntimeError, IndexError, StopIteration):
        return "unknown"  # a module of another shape than these formulas have


def _cause(stage: Stage) -> str:
    """Tries every candidate, first as a mistake of ours, then as what only the reference does."""
    known = stage.evidence
    for target, start, words in (
        (known.observed, known.expected, "{}"),
        (known.expected, known.observed, "in the reference, and not here: {}"),
    ):
        for base in stage.bases():
            if not _gives(stage, base, known.weights, start):
                continue
            for text, recipe, weights in _candidates(stage, base):
                if _gives(stage, recipe, weights, target):
                    return words.format(text)
    return "unknown"


def _gives(stage: Stage, recipe: Recipe, weights: Weights, target: Tensor) -> bool:
    real = stage.evidence.real
    try:
        found, wanted = real(stage.run(weights, recipe)), real(target)
    except (RuntimeError, IndexError):
        return False  # sizes that this recipe cannot have
    if found.shape != wanted.shape:
        return False
    return bool((found - wanted).abs().max() <= EQUAL * wanted.abs().max())


def _candidates(stage: Stage, base: Recipe) -> Iterator[Candidate]:
    """Every mistake that this module can have: settings first, then weights."""
    w, knobs, norm, linears = stage.evidence.weights, *_about(stage)
    for text, change in (*knobs, *(NORM_KNOBS if norm else ())):
        yield text, replace(base, **change), w
    if stage.part == "embeddings":
        width = w["embeddings.word_embeddings.weight"].shape[1]
        yield "embeddings are multiplied by the root of the width", replace(base, embedding_scale=width**0.5), w
    if linears[:1] == (f"{stage.layer}.attention.query",):
        width = w[f"{linears[0]}.weight"].shape[0]
        for heads in (n for n in range(1, min(width, 128) + 1) if width % n == 0 and n != base.heads):
            yield f"the number of heads is {heads}", replace(base, heads=heads), w
    for text, weights in _other_weights(stage, norm, tuple(n for n in linears if f"{n}.weight" in w)):
        yield text, base, weights


def _about(stage: Stage) -> tuple[tuple[tuple[str, dict[str, Any]], ...], str | None, tuple[str, ...]]:
    """What can be wrong with the module: settings, the norm in it, the linear layers in it."""
    name, layer = stage.evidence.module, stage.layer
    attention = tuple(f"{layer}.attention.{part}" for part in ("query", "key", "value", "output"))
    down = f"{layer}.feed_forward.down"
    if stage.pre_norm:
        found = {
            "attention_LayerNorm": (PLACE_KNOBS, name, ()),
            "feed_forward_LayerNorm": (ATTENTION_KNOBS, name, attention),
            "block": ((*RESIDUAL_KNOBS, *ACTIVATION_KNOBS), None, (down,)),
            "LayerNorm": ((), name, ()),
        }.get(stage.part)
    else:
        found = {
            "attention_LayerNorm": ((*ATTENTION_KNOBS, *PLACE_KNOBS), name, attention),
            "feed_forward_LayerNorm": ((*RESIDUAL_KNOBS, *PLACE_KNOBS, *ACTIVATION_KNOBS), name, (down,)),
        }.get(stage.part)
    heads = ("", ".dense", ".out_proj", ".dense_prediction")
    return found or {
        "embeddings": (EMBEDDING_KNOBS, "embeddings.LayerNorm", ()),
        "projection": ((), None, (name,)),
        "up": ((), None, (name,)),
        "transform": (ACTIVATION_KNOBS, name, ("lm_head.dense",)),
        "decoder": ((), None, ("lm_head.decoder",)),
        "pooler": (POOLER_KNOBS, None, ("pooler.dense",)),
    }.get(stage.part, ((*HEAD_KNOBS, *SOURCE_KNOBS), None, tuple(name + end for end in heads)))


def _other_weights(stage: Stage, norm: str | None, linears: tuple[str, ...]) -> Iterator[tuple[str, Weights]]:
    w, own = stage.evidence.weights, stage.evidence.own
    if norm is not None:
        gain, shift = w[f"{norm}.weight"], w[f"{norm}.bias"]
        yield f"weight and bias of {norm} are swapped", {**w, f"{norm}.weight": shift, f"{norm}.bias": gain}
        yield f"the weight of {norm} is missing", {**w, f"{norm}.weight": torch.ones_like(gain)}
        yield f"the bias of {norm} is missing", {**w, f"{norm}.bias": torch.zeros_like(shift)}
    for name in linears:
        weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        yield f"the bias of {name} is dropped", {**w, f"{name}.bias": torch.zeros_like(bias)}
        if weight.shape[0] == weight.shape[1]:
            yield f"the weight of {name} is transposed", {**w, f"{name}.weight": weight.T}
        yield (
            f"the outputs of {name} stand in reverse order",
            {**w, f"{name}.weight": weight.flip(0), f"{name}.bias": bias.flip(0)},
        )
    yield "every bias is dropped", {**w, **{f"{n}.bias": torch.zeros_like(w[f"{n}.bias"]) for n in linears}}
    for one, other in ((a, b) for i, a in enumerate(linears) for b in linears[i + 1 :]):
        exchanged = {f"{a}.{p}": w[f"{b}.{p}"] for a, b in ((one, other), (other, one)) for p in ("weight", "bias")}
        yield f"{one} and {other} are swapped", {**w, **exchanged}
    yield from _other_layers(stage.layer, w)
    start = stage.layer or stage.evidence.module.partition(".")[0]
    for name in (n for n in w if n.startswith(f"{start}.") and n in own and own[n].shape == w[n].shape):
        tied = name == "lm_head.decoder.weight" and stage.evidence.config.tie_word_embeddings
        said = "is not tied to the token table" if tied else "has other values than in the checkpoint"
        yield f"{name} {said}", {**w, name: own[name]}


def _other_layers(layer: str, w: Weights) -> Iterator[tuple[str, Weights]]:
    """The weights of every other layer in the place of this one's."""
    stack, _, number = layer.rpartition(".")
    if not number.isdigit():
        return
    mine = [name.removeprefix(f"{layer}.") for name in w if name.startswith(f"{layer}.")]
    others = {name.removeprefix(f"{stack}.").partition(".")[0] for name in w if name.startswith(f"{stack}.")}
    for other in sorted(others - {number}, key=int):
        exchanged = {f"{layer}.{name}": w[f"{stack}.{other}.{name}"] for name in mine}
        yield f"{layer} runs with the weights of {stack}.{other}", {**w, **exchanged}
