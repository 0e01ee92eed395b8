"""Watching two models run: which modules must give the same, and what each gave in every layer it ran in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from weights_convert.families.family import Family


def layer_of(place: str) -> int | None:
    """The layer that a place is in."""
    number = place.removeprefix("encoder.layer.").partition(".")[0]
    return int(number) if place.startswith("encoder.layer.") and number.isdigit() else None


@dataclass(frozen=True)
class Pair:
    """Modules that must give the same output, by name in either model.

    `place` says which, with {layer} for the number of the layer: a block may be that of several. `block` is its number.
    """

    ours: str
    theirs: str
    place: str
    block: int


@dataclass(frozen=True)
class Run:
    """What one run of a module gave."""

    module: str
    output: Tensor


def pairs_of(family: Family, ours: nn.Module, theirs: nn.Module) -> list[Pair]:
    """The modules to compare, for every block that both have."""
    our_names, their_names = dict(ours.named_modules()), dict(theirs.named_modules())
    config: Any = ours.config
    inner = getattr(config, "inner_group_num", 1)
    pairs = []
    for mine, reference in family.modules:
        for block in range(config.num_hidden_layers * inner) if "{layer}" in mine else (0,):
            numbers = {"layer": block, "group": block // inner, "inner": block % inner}
            for start in ("", f"{family.prefix}."):
                names = start + mine.format(**numbers), start + reference.format(**numbers)
                if our_names.get(names[0]) is not None and their_names.get(names[1]) is not None:
                    pairs.append(Pair(*names, mine, block))
    return pairs


def watched_run(
    model: nn.Module, batch: Mapping[str, Tensor], watched: Mapping[str, str]
) -> tuple[dict[str, Run], Any]:
    """What the watched modules gave, in the order in which they ran, by their places; and the result."""
    seen: dict[str, Run] = {}
    layers: Counter[str] = Counter()

    def keep(module_name: str, place: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            value = (output[0] if isinstance(output, tuple) else output).detach()
            seen[place.format(layer=layers[place])] = Run(module_name, value)
            layers[place] += 1

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name, place)) for name, place in watched.items()]
    try:
        return seen, model(**batch)
    finally:
        for handle in handles:
            handle.remove()


def shown_name(place: str, run: Run) -> str:
    """The reference's name of a module, and the layer where the name does not tell it."""
    layer = layer_of(place)
    told = layer is None or re.search(rf"(^|\.)layer\.{layer}(\.|$)", run.module)
    return run.module if told else f"{run.module} in layer {layer}"
