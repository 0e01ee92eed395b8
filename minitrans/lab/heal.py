"""What training gives back after a swap, in two stages (Zhang et al. 2024, "The Hedgehog & the Porcupine", section 4.2; Zhang et
al. 2025, "LoLCATs"): layer by layer towards the outputs of the exact attention, then end to end.

The exact model gets the same steps, as a control. No judgement of the task is read but under objective="labels".
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from minitrans.embedding.options import Call
from minitrans.lab.bench import Bench
from minitrans.lab.capture import Fields, LayerCall, again, batch_of, layer_calls, states_of
from minitrans.lab.specs import Subject
from minitrans.lab.sts import TRAIN_FILE, Pair, read_pairs

_ALIKE = 8  # batches that are sorted by length together
_KEPT = 100  # batches whose layers the first stage keeps, and goes through again

Row = dict[str, Any]
_Item = TypeVar("_Item", str, Pair)


@dataclass(frozen=True, eq=False)
class _Stage:
    name: str
    losses: Sequence[Callable[[], Tensor]]  # of the steps
    parameters: Sequence[nn.Parameter]
    rate: float


def heal(
    bench: Bench,
    subject: Subject,
    seed: int,
    *,
    transfer_steps: int = 200,
    tune_steps: int = 200,
    batch: int = 16,
    fresh_rate: float = 1e-2,
    rate: float = 1e-4,
    objective: str = "vectors",
    points: int = 1,
    pairs: int = 0,
    ablate: str = "",
    precision: str = "float32",
) -> Row:
    """The score over steps and seconds of training; then what it is in the healed weights with a branch of the variant off,
    and with the exact attention back: where that is as good, the model goes round the branch, or the variant.

    Args:
        bench: with the train file of the STS benchmark.
        subject: in all layers.
        seed: of the variant, and of the order of the texts.
        transfer_steps: of the first stage: each layer alone, on what the exact model gives it, towards what the exact model
            makes of it. It trains the fresh parameters of the variant; where there are none, those of the projections.
        tune_steps: of the second: all weights but the table of tokens.
        batch: texts of a step, under "labels" pairs.
        fresh_rate: learning rate of fresh parameters in the first stage; linear to 0, as the other one is.
        rate: of all else.
        objective: of the second stage: "vectors", those of the exact model; "labels", the judgements of the train file.
        points: of the curve in each stage: at 1, 1/2, 1/4 ... of its steps.
        pairs: on how many the scores are, evenly out of all; 0 = all.
        ablate: fresh parameters and the numbers that take a branch away, "log_factor=-30" in `lolcats`; with commas.
        precision: of the products of matrices in training: "float32", or "bfloat16" with weights in float32.

    Raises:
        ValueError: for another objective or precision, or a parameter to ablate that is not there.
    """
    if objective not in ("vectors", "labels"):
        raise ValueError(f"objective: expected vectors or labels, got {objective!r}")
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision: expected float32 or bfloat16, got {precision!r}")
    order, judged, model = random.Random(seed), read_pairs(bench.files[TRAIN_FILE]), bench.encoder.model
    texts = sorted({text for pair in judged for text in (pair.first, pair.second)})
    kept = [batch_of(bench, each) for each in _batches(texts, batch, min(transfer_steps, _KEPT), order)]
    calls = [layer_calls(bench, fields) for fields in kept]
    if objective == "vectors":
        chosen = _batches(texts, batch, tune_steps, order)
        tune = [partial(_to_vectors, bench, each, bench.encoder.encode(each, normalize=True)) for each in chosen]
    else:
        tune = [partial(_to_labels, bench, each) for each in _batches(judged, batch, tune_steps, order)]
    exact, exact_vectors = bench.exact_on(pairs)
    with _as_it_was(model), bench.swapped(subject.seeded(seed), seed) as names:
        fresh = [model.get_parameter(name) for name in names]
        projections = [weight for block in bench.attentions for weight in block.parameters()]
        transfer = [
            partial(_to_layers, bench, kept[step % _KEPT], calls[step % _KEPT]) for step in range(transfer_steps)
        ]
        stages = (
            _Stage("transfer", transfer, fresh or projections, fresh_rate if fresh else rate),
            _Stage("tune", tune, [*_all_but_tokens(model)], rate),
        )
        score, vectors = bench.score(pairs)
        curve: list[Row] = [{"stage": "swap", "step": 0, "seconds": 0.0, "score": score}]
        touched = {}
        for stage in stages:
            before = [parameter.detach().clone() for parameter in stage.parameters]
            for point in _trained(model, stage, points, precision == "bfloat16"):
                score, vectors = bench.score(pairs)
                curve.append({"stage": stage.name, **point, "score": score})
            changed = [not torch.equal(*both) for both in zip(stage.parameters, before, strict=True)]
            touched[stage.name] = sum(old.numel() for old, moved in zip(before, changed, strict=True) if moved)
        ablated = _ablated(bench, names, ablate, pairs) if ablate else None
        for block in bench.attentions:
            block.install([], block.backend)
        without = bench.score(pairs)[0]
    return {
        "score": score, "exact": exact, "without": without, "ablated": ablated, "curve": curve, "touched": touched,
        "cosine": float((vectors * exact_vectors).sum(-1).mean()),
    }  # fmt: skip


@torch.no_grad()
def _ablated(bench: Bench, names: Sequence[str], ablate: str, pairs: int) -> float:
    """The score with these parameters filled."""
    for part in ablate.split(","):
        name, _, number = part.partition("=")
        found = [each for each in names if each.endswith(f".{name}")]
        if not found:
            raise ValueError(f"ablate: expected NAME=NUMBER with one of {', '.join(names) or 'no names'}, got {part!r}")
        for each in found:
            bench.encoder.model.get_parameter(each).fill_(float(number))
    return bench.score(pairs)[0]


def _trained(model: nn.Module, stage: _Stage, points: int, low: bool) -> Iterator[Row]:
    """Runs a stage; yields step, seconds of training and loss at the points of the curve, where the caller may score."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in stage.parameters:
        parameter.requires_grad_(True)
    steps = len(stage.losses)
    stops = {max(steps >> number, 1) for number in range(points)}
    optimizer = torch.optim.Adam(stage.parameters, lr=stage.rate)
    seconds, begin = 0.0, time.perf_counter()
    for step, loss_of in enumerate(stage.losses):
        for group in optimizer.param_groups:
            group["lr"] = stage.rate * (1 - step / steps)
        with torch.autocast(stage.parameters[0].device.type, torch.bfloat16, enabled=low):
            loss = loss_of()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step + 1 in stops:
            seconds += time.perf_counter() - begin
            yield {"step": step + 1, "seconds": round(seconds, 2), "loss": loss.item()}
            begin = time.perf_counter()


def _to_layers(bench: Bench, fields: Fields, calls: list[LayerCall]) -> Tensor:
    """The squared error of each layer's output relative to the output, summed over the layers."""
    real = fields["attention_mask"][..., None].bool()
    errors = [
        (real * (found - call.output)).square().sum() / (real * call.output).square().sum()
        for found, call in zip(again(bench, calls), calls, strict=True)
    ]
    return torch.stack(errors).sum()


def _to_vectors(bench: Bench, texts: list[str], wanted: Tensor) -> Tensor:
    """Half the squared distance of the unit vectors, 1 - cosine, mean."""
    vectors = _vectors(bench, texts)
    return 0.5 * (vectors - wanted.to(vectors)).square().sum(dim=-1).mean()


def _to_labels(bench: Bench, pairs: list[Pair]) -> Tensor:
    """The squared error of the cosines of pairs, judgements being 0 to 1."""
    vectors = _vectors(bench, [pair.first for pair in pairs] + [pair.second for pair in pairs])
    cosines = (vectors[: len(pairs)] * vectors[len(pairs) :]).sum(dim=-1)
    return mse_loss(cosines, torch.tensor([pair.score / 5 for pair in pairs]).to(cosines))


def _vectors(bench: Bench, texts: list[str]) -> Tensor:
    """Of unit length (n, D), with a gradient."""
    fields = batch_of(bench, texts)
    call = Call(bench.encoder.recipe.pooling, True, len(texts), "", None)
    vectors: Tensor = bench.encoder.head(states_of(bench, fields), fields["attention_mask"].bool(), call)
    return vectors


def _all_but_tokens(model: Any) -> Iterator[nn.Parameter]:
    table = model.base_model.get_input_embeddings().weight
    return (parameter for parameter in model.base_model.parameters() if parameter is not table)


def _batches(items: Sequence[_Item], size: int, count: int, order: random.Random) -> list[list[_Item]]:
    """`count` batches in random order, of texts that are about equally long; all items once before any comes again."""
    found: list[list[_Item]] = []
    while len(found) < count:
        shuffled = order.sample(items, len(items))
        for start in range(0, len(shuffled), size * _ALIKE):
            near = sorted(shuffled[start : start + size * _ALIKE], key=_length)
            batches = [near[place : place + size] for place in range(0, len(near), size)]
            found += order.sample(batches, len(batches))
    return found[:count]


def _length(item: str | Pair) -> int:
    return len(item) if isinstance(item, str) else max(len(item.first), len(item.second))


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Gives the model its weights back."""
    kept = [(parameter, parameter.detach().clone(), parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, old, needs_gradient in kept:
            parameter.data.copy_(old)
            parameter.requires_grad_(needs_gradient)
            parameter.grad = None
