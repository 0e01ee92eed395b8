"""What goes into each attention of a model and comes out: recorded while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from minitrans.attention.context import Context
from minitrans.errors import NotSupportedError
from minitrans.lab.bench import Bench
from minitrans.pipelines.base import padded


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of the attention of a layer.

    Attributes:
        x: (B, T, D), what went in.
        context: that went in with it.
        output: (B, T, D), what came out.
    """

    x: Tensor
    context: Context
    output: Tensor


Fields = dict[str, Tensor]


def batch_of(bench: Bench, texts: Sequence[str], longest: int | None = None) -> Fields:
    """What the model is given for these texts; each cut to `longest` tokens."""
    encoder = bench.encoder
    limit = encoder.max_length if longest is None else min(longest, encoder.max_length)
    encoded = encoder.tokenizer(list(texts), truncation=True, max_length=limit)
    names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
    rows = [{name: encoded[name][row] for name in names} for row in range(len(texts))]
    return padded(rows, encoder.tokenizer.pad_token_id or 0, encoder.device)


def states_of(bench: Bench, fields: Fields) -> Tensor:
    """The last hidden states (B, T, D), padding computed along, so that every layer sees (B, T, D)."""
    states: Tensor = bench.encoder.model.base_model(**fields, padding="keep").last_hidden_state
    return states


@torch.no_grad()
def layer_calls(bench: Bench, fields: Fields) -> list[LayerCall]:
    """The call of each layer in one pass of the model as it is now."""
    found: list[LayerCall] = []

    def record(module: Any, arguments: tuple[Any, ...], output: Any) -> None:
        found.append(LayerCall(arguments[0].detach(), arguments[1], output.output.detach()))

    with _hooks(bench, lambda block: block.register_forward_hook(record)):
        states_of(bench, fields)
    return found


@contextmanager
def _hooks(bench: Bench, add: Callable[[Any], Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for block in bench.attentions:
            stack.callback(add(block).remove)
        yield


def again(bench: Bench, calls: Sequence[LayerCall]) -> list[Tensor]:
    """The outputs (B, T, D) of the layers as they are now, each given what its call was given."""
    shared: dict[str, Any] = {}  # of this pass
    return [
        block(call.x, replace(call.context, shared=shared), None).output
        for block, call in zip(bench.attentions, calls, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Heads:
    """What the heads of a layer did.

    Attributes:
        output: (B, T, H, K), before they are joined.
        weights: (B, H, T, S); None for an attention that has none.
    """

    output: Tensor
    weights: Tensor | None


@torch.no_grad()
def heads_again(bench: Bench, calls: Sequence[LayerCall]) -> list[Heads]:
    """As `again`, before the heads are joined, with their weights where they have some."""
    outputs: list[Tensor] = []
    found: list[Heads] = []
    shared: list[dict[str, Any]] = [{}, {}]  # of two passes: what cannot give its weights runs again without
    for block, call in zip(bench.attentions, calls, strict=True):

        def keep(module: Any, arguments: tuple[Tensor, ...], block: Any = block) -> None:
            outputs.append(arguments[0].unflatten(-1, (-1, block.head_width)))  # type: ignore[no-untyped-call]

        hook = block.output.register_forward_pre_hook(keep)
        try:
            weights = None
            with suppress(NotSupportedError):
                weights = block(call.x, replace(call.context, need_weights=True, shared=shared[0]), None).weights
            if weights is None:
                block(call.x, replace(call.context, shared=shared[1]), None)
        finally:
            hook.remove()
        found.append(Heads(outputs[-1], weights))
    return found


@torch.no_grad()
def queries_keys_values(bench: Bench, calls: Sequence[LayerCall]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each layer (B, H, T, K), (B, G, T, K), (B, G, T, K), as the hooks of its variants leave them."""
    shared: dict[str, Any] = {}
    found = []
    for block, call in zip(bench.attentions, calls, strict=True):
        context = replace(call.context, shared=shared)
        parts = tuple(
            linear(call.x).unflatten(-1, (-1, block.head_width)).transpose(1, 2)
            for linear in (block.query, block.key, block.value)
        )
        for variant in block.all_variants:
            parts = variant.project(*parts, context)
        found.append(parts)
    return found
