"""Why does a module differ? Our own layers make known mistakes, one at a time, and the one that explains it is named.

The part that holds the module runs again with the reference's weights and with what entered it where all was right, so that
it alone is judged. A cause is named only if its result equals the observed output to 1e-8; otherwise it is "unknown".
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minitrans.attention.bias import DenseBias, RelativeBuckets, SummedBias
from minitrans.attention.context import Context
from minitrans.checkpoints.watching import layer_of
from minitrans.layers.activations import ACTIVATIONS
from minitrans.layers.block import Block
from minitrans.layers.embeddings import Embeddings
from minitrans.layers.heads import ClassificationHead
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.models.backbone import Pooler

EQUAL = 1e-8
EPSILONS = (1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-3)
PARTS = {
    "pooler_output": "pooler",
    "encoder.LayerNorm": "encoder.LayerNorm",
}  # where it is not the first word of a place
Edit = tuple[Any, str, Any]  # an object, an attribute, and its value while the mistake is made
Mistake = tuple[str, list[Edit]]


@dataclass
class Part:
    """A run of a part of the model.

    Attributes:
        name: as it is shown; layers may share blocks, so that it counts layers.
        inside: the module in it whose output counts; "" = its own.
        arguments: what went in.
        body: what the body gave.
        raw: what linear layers outside the blocks gave.
        runs: the blocks in the order in which they ran.
        table: the weight of the token table.
    """

    module: nn.Module
    name: str
    inside: str
    arguments: Sequence[Any]
    body: Any
    raw: list[Tensor]
    runs: list[nn.Module]
    table: Tensor

    def run(self, edits: Sequence[Edit] = ()) -> Tensor | None:
        """The output in question; None where the mistake cannot be made with these sizes."""
        with _edited(edits), _watched([self.module.get_submodule(self.inside)]) as calls:
            try:
                self.module(*self.arguments)
            except (RuntimeError, IndexError, ValueError):
                return None
        output: Tensor = calls[0].output[0] if isinstance(calls[0].output, tuple) else calls[0].output
        return output


class _Call(NamedTuple):
    module: nn.Module
    arguments: Any
    output: Any


@contextmanager
def _watched(modules: Iterable[nn.Module]) -> Iterator[list[_Call]]:
    calls: list[_Call] = []
    handles = [module.register_forward_hook(lambda *call: calls.append(_Call(*call))) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _edited(edits: Sequence[Edit]) -> Iterator[None]:
    before = [(thing, name, getattr(thing, name)) for thing, name, _ in edits]
    for edit in edits:
        setattr(*edit)
    try:
        yield
    finally:
        for thing, name, value in before:
            if inspect.ismethod(value):
                delattr(thing, name)
            else:
                setattr(thing, name, value)


def part_of(model: Any, place: str, batch: Mapping[str, Tensor]) -> Part | None:
    """The part of the model that holds the module at `place`, as it runs on a batch; None where there is none."""
    body, layer = model.base_model, layer_of(place)
    name = PARTS.get(place, place.partition(".")[0]) if layer is None else f"encoder.layer.{layer}"
    owner = model if hasattr(model, name.partition(".")[0]) else body
    if layer is None and name not in dict(owner.named_modules()):
        return None
    heads = (module for at, module in model.named_modules() if isinstance(module, nn.Linear) and ".layer." not in at)
    with (
        _watched(body.encoder.layer if layer is not None else [owner.get_submodule(name)]) as calls,
        _watched([body]) as bodies,
        _watched(heads) as linears,
    ):
        model(**batch)
    inside = place.removeprefix(f"{name}.") if place.startswith(f"{name}.") else ""
    module, arguments, _ = calls[layer or 0]
    raw, runs = [call.output for call in linears], [call.module for call in calls]
    table = model.get_input_embeddings().weight
    return Part(module, name, inside, arguments, bodies[0].output, raw, runs, table)


def likely_cause(
    part: Part, observed: Tensor, expected: Tensor, own: nn.Module, real: Callable[[Tensor], Tensor], mask: Tensor
) -> str:
    """One line: the mistake of ours, or what only the reference does, that explains the difference, or "unknown".

    Args:
        part: the part of a model that is right by construction, with the reference's weights.
        observed: what the module under test gave.
        expected: what the reference gave.
        own: the part under test.
        real: takes the rows of an output that count.
        mask: (B, T) 1 = a token.
    """

    def gives(edits: Sequence[Edit], wanted: Tensor) -> bool:
        found = part.run(edits)
        if found is None or found.shape != wanted.shape:
            return False
        return bool((real(found) - real(wanted)).abs().max() <= EQUAL * real(wanted).abs().max())

    if gives([], expected):
        wanted, words = observed, "{}"
    elif gives([], observed):
        wanted, words = expected, "in the reference, and not here: {}"
    else:
        return "unknown"
    return next((words.format(text) for text, edits in _mistakes(part, own, mask) if gives(edits, wanted)), "unknown")


def _mistakes(part: Part, own: nn.Module, mask: Tensor) -> Iterator[Mistake]:
    """Every mistake that this part can have: in what enters it, in its settings, in its weights."""
    for text, arguments in _arguments(part, mask):
        yield text, [(part, "arguments", arguments)]
    for module in part.module.modules():
        yield from _settings(module)
    yield from _weights(part, own)


def _arguments(part: Part, mask: Tensor) -> Iterator[tuple[str, Sequence[Any]]]:
    first, *rest = part.arguments
    if isinstance(part.module, Embeddings):
        for text, positions, types in _positions_and_types(part.module, rest[0], rest[1], mask):
            yield text, (first, positions, types)
    elif isinstance(part.module, Block):
        for text, context in _contexts(rest[0]):
            yield text, (first, context, *rest[1:])
    else:
        for text, other in _read(part, first):
            yield text, (other, *rest)


def _positions_and_types(
    module: Embeddings, positions: Tensor, types: Tensor, mask: Tensor
) -> Iterator[tuple[str, Tensor, Tensor]]:
    table = module.position_embeddings
    counted, last = mask.cumsum(-1) * mask, 0 if table is None else table.num_embeddings - 1
    for n in (-2, -1, 1, 2):
        yield f"positions are off by {n:+d}", (positions + n).clamp(0, last), types
    pad = module.word_embeddings.padding_idx or 0
    yield "positions run from padding_idx + 1", (counted + pad).clamp(0, last), types
    yield "positions skip padding", (counted - 1).clamp(0), types
    yield "positions run from 0 and count padding", torch.arange(mask.shape[1]).expand_as(mask), types
    yield "token types are all taken for the first", positions, types * 0
    yield "token types are exchanged", positions, 1 - types


class _Turned(RelativeBuckets):
    """The scores of distances that are turned by a function first."""

    turn: Callable[[Tensor], Tensor]

    def buckets(self, ahead: Tensor) -> Tensor:
        return super().buckets(self.turn(ahead))


def _contexts(context: Context) -> Iterator[tuple[str, Context]]:
    mask, bias = context.mask, context.bias
    yield f"attention is {'not ' * mask.causal}causal", replace(context, mask=replace(mask, causal=not mask.causal))
    if mask.key_padding is not None:
        everything = replace(context, mask=replace(mask, key_padding=None))
        yield "padding is attended to", everything
        yield "the mask is inverted", replace(context, mask=replace(mask, key_padding=~mask.key_padding))
        outside = (~mask.key_padding)[:, None, None].double().expand(-1, -1, mask.key_padding.shape[1], -1)
        for c in (-1.0, -10.0, -100.0, 1.0):
            added = DenseBias(c * outside)  # (B, 1, T, S)
            text = f"the mask's constant is {c:g}: padding is attended to"
            yield text, replace(everything, bias=added if bias is None else SummedBias(bias, added))
    if isinstance(bias, RelativeBuckets):
        yield "the scores of distances are missing", replace(context, bias=None)
        for text, turn in (("the same", lambda ahead: -ahead.abs()), ("exchanged", torch.neg)):
            turned = _Turned(bias.table, bias.bidirectional, bias.max_distance)
            object.__setattr__(turned, "turn", turn)
            yield f"the scores of distances before and after a token are {text}", replace(context, bias=turned)
        for n in (16, 32, 64, 128, 256, 512):
            text = f"the distances of the scores grow up to {n}, not {bias.max_distance}"
            yield text, replace(context, bias=replace(bias, max_distance=n))


def _read(part: Part, given: Any) -> Iterator[tuple[str, Tensor]]:
    """What else a head or a pooler may read."""
    if isinstance(part.module, Pooler | ClassificationHead):
        yield "the last token is pooled, not the first", given.flip(1)
        yield "the mean of the tokens is pooled, not the first", given.mean(1, keepdim=True)
    for raw in part.raw:
        if raw.shape == given.shape:
            for name, act in ACTIVATIONS.items():
                yield f"the activation before the scores is {name}", act(raw)
    if part.body.pooler_output is not None:
        yield "the head reads the pooled vector", part.body.pooler_output
    yield "the head reads the first token as it is", part.body.last_hidden_state[:, 0]


def _settings(module: Any) -> Iterator[Mistake]:
    """What may be set wrongly in one module."""
    if isinstance(module, nn.LayerNorm):
        for eps in EPSILONS:
            yield f"the eps of LayerNorm is {eps:g}", [(module, "eps", eps)]
        yield "LayerNorm is not applied", [(module, "forward", lambda x: x)]
    if hasattr(module, "act"):
        where = " before the scores" if isinstance(module, ClassificationHead) else ""
        for name, act in ACTIVATIONS.items():
            yield f"the activation{where} is {name}", [(module, "act", act)]
    if isinstance(module, Pooler):
        for name, act in ACTIVATIONS.items():
            text = "the pooler has no tanh" if name == "linear" else f"the pooler's activation is {name}"
            yield text, [(module, "forward", lambda x, act=act: act(module.dense(x[:, 0])))]
    if isinstance(module, Block):
        places = ["before the sub-layer", "after the sum"]
        here, there = reversed(places) if module.norm_first else places
        yield f"the norm comes {here}, not {there}", [(module, "norm_first", not module.norm_first)]
        for name in ("attention", "feed_forward"):
            yield "the residual sum is missing", _without_residual(module, name)
    if isinstance(module, MultiHeadAttention):
        heads, joined = module.num_heads, module.num_heads * module.head_width
        yield "the scores are not scaled", [(module, "scale", 1.0)]
        text = "the scores are scaled by the model's width, not the head's"
        yield text, [(module, "scale", module.query.in_features**-0.5)]
        yield "the scores are scaled by 1 / K, not by its root", [(module, "scale", 1 / module.head_width)]
        yield (
            "heads are split in the wrong order",
            [
                (module, "_split", lambda x: x.view(*x.shape[:-1], -1, heads).movedim(-1, 1)),
                (module, "_join", lambda x: x.movedim(1, -1).flatten(-2)),
            ],
        )
        for n in (n for n in range(1, min(joined, 128) + 1) if joined % n == 0 and n != heads):
            sizes = {"num_heads": n, "num_kv_heads": n, "head_width": joined // n}
            yield f"the number of heads is {n}", [(module, name, size) for name, size in sizes.items()]


def _without_residual(block: Block, name: str) -> list[Edit]:
    """A sub-layer that takes away what will be added to its output."""
    sub_layer, norm = getattr(block, name), getattr(block, f"{name}_LayerNorm")
    right, right_norm, streams = sub_layer.forward, norm.forward, []

    def normed(x: Tensor) -> Any:
        streams.append(x)
        return right_norm(x)

    def alone(x: Tensor, *rest: Any) -> Any:
        output = right(x, *rest)
        stream = streams[-1] if block.norm_first else x
        return output - stream if isinstance(output, Tensor) else output._replace(output=output.output - stream)

    return [(sub_layer, "forward", alone), (norm, "forward", normed)]


def _weights(part: Part, own: nn.Module) -> Iterator[Mistake]:
    """Weights that are missing, turned, or in each other's place; last, those of the part under test."""
    linears: dict[str, Any] = {}
    for at, module in part.module.named_modules():
        name = f"{part.name}.{at}".removesuffix(".")
        if isinstance(module, nn.Linear):
            linears[name] = module
        elif isinstance(module, nn.LayerNorm) and module.bias is not None:
            weight, bias = module.weight, module.bias
            yield f"weight and bias of {name} are swapped", [(weight, "data", bias.data), (bias, "data", weight.data)]
            yield f"the weight of {name} is missing", [(weight, "data", torch.ones_like(weight.data))]
            yield f"the bias of {name} is missing", [_zero(bias)]
        elif isinstance(module, nn.Embedding):
            what = name.rpartition(".")[2].replace("_embeddings", "").replace("_", " ")
            what = {"position": "position embeddings", "token type": "token types"}.get(what, what)
            yield f"{what} are missing", [_zero(module.weight)]
    for name, linear in linears.items():
        weight, bias = linear.weight, linear.bias
        yield f"the bias of {name} is dropped", _zeros(linear)
        yield f"the weight of {name} is transposed", [(weight, "data", weight.data.T)]
        yield (
            f"the outputs of {name} stand in reverse order",
            [(p, "data", p.data.flip(0)) for p in (weight, bias) if p is not None],
        )
    yield "every bias is dropped", [edit for linear in linears.values() for edit in _zeros(linear)]
    for (one, first), (other, second) in combinations(linears.items(), 2):
        pairs = [(first.weight, second.weight), (first.bias, second.bias)]
        pairs = [pair for pair in pairs if pair[0] is not None and pair[1] is not None]
        yield f"{one} and {other} are swapped", [(p, "data", q.data) for a, b in pairs for p, q in ((a, b), (b, a))]
    for number, block in enumerate(part.runs):
        if block is not part.module:
            yield f"{part.name} runs with the weights of encoder.layer.{number}", [(part, "module", block)]
    theirs = dict(own.named_parameters(remove_duplicate=False))
    for at, parameter in part.module.named_parameters(remove_duplicate=False):
        tied = parameter is part.table and not isinstance(part.module, Embeddings)
        said = "is not tied to the token table" if tied else "has other values than in the checkpoint"
        yield f"{part.name}.{at} {said}", [(parameter, "data", theirs[at].data)]


def _zeros(linear: Any) -> list[Edit]:
    """What drops the bias of a projection that has one."""
    return [] if linear.bias is None else [_zero(linear.bias)]


def _zero(parameter: Tensor) -> Edit:
    return parameter, "data", torch.zeros_like(parameter.data)
