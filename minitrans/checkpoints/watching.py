"""Watching two models run: which modules must give the same, and what each gave in every layer it ran in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from weights_convert.families.family import Family
from weights_convert.names import bare_names
from weights_convert.plan import Step, TensorInfo, instances
from weights_convert.rules import movements

_LAYER = "encoder.layer.{layer}"  # where the layers that are done are counted
_LAST = "label_scores"  # it scores the last token of a text, in the reference all of them: what the model returns is compared
_BLOCK = re.compile(r"(encoder\.layer\.)(\d+)(?=\.)")


def layer_of(place: str) -> int | None:
    """The layer that a place is in."""
    number = place.removeprefix("encoder.layer.").partition(".")[0]
    return int(number) if place.startswith("encoder.layer.") and number.isdigit() else None


@dataclass(frozen=True)
class Pair:
    """Modules that must give the same output, by name in either model.

    `place` says which, without the body's prefix and with {layer} for the number of the layer: a block may be that of several.
    """

    ours: str
    theirs: str
    place: str


@dataclass(frozen=True)
class Run:
    """What one run of a module gave."""

    module: str
    output: Tensor


def matched(family: Family, theirs: nn.Module, config: Any) -> Iterator[tuple[Step, tuple[str, ...]]]:
    """Every rule that moves tensors of the reference, as loading a file of them would, and their names there."""
    state = theirs.state_dict()
    names, _ = bare_names(state, family.prefixes)
    stored = {bare: TensorInfo(key, state[key].dtype, tuple(state[key].shape), "") for bare, key in names.items()}
    for step in instances(movements(family.table(config)), stored):
        if all(source in names for source in step.sources):
            yield step, tuple(names[source] for source in step.sources)


def pairs_of(family: Family, ours: nn.Module, theirs: nn.Module) -> list[Pair]:
    """What the table of weights tells: modules with the same weight, and blocks, which are what their modules share in names."""
    known = dict(ours.named_modules())
    pairs, blocks = [], dict[str, list[str]]()
    for step, keys in matched(family, theirs, ours.config):
        bare, ending = step.targets[0].rpartition(".")[::2]
        name = next(
            (name for name in (bare, *(f"{prefix}.{bare}" for prefix in family.prefixes)) if name in known), None
        )
        if name is None or ending != "weight" or isinstance(known[name], nn.Embedding):
            continue
        if len(keys) == len(step.targets) == 1 and bare != _LAST:
            pairs.append(Pair(name, keys[0].rpartition(".")[0], _BLOCK.sub(r"\1{layer}", bare)))
        if block := _BLOCK.search(name):
            blocks.setdefault(name[: block.end()], []).append(keys[0])
    return pairs + [Pair(block, _shared(keys, theirs), _LAYER) for block, keys in blocks.items()]


def _shared(names: list[str], model: nn.Module) -> str:
    """The module in which all these are: the words with which they begin, short of a list of modules, which never runs."""
    alike = 0
    for words in zip(*(name.split(".") for name in names), strict=False):
        if len(set(words)) > 1:
            break
        alike += 1
    shared = ".".join(names[0].split(".")[:alike])
    return shared.rpartition(".")[0] if isinstance(model.get_submodule(shared), nn.ModuleList) else shared


def watched_run(
    model: nn.Module, batch: Mapping[str, Tensor], watched: Mapping[str, str]
) -> tuple[dict[str, Run], Any]:
    """What the watched modules gave, in the order in which they ran, by their places; and the result."""
    seen: dict[str, Run] = {}
    layers: Counter[str] = Counter()

    def keep(module_name: str, place: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            value = (output[0] if isinstance(output, tuple) else output).detach()
            value = value.clone()  # some are scaled in place (L3)
            # a module that runs twice in a layer runs on tokens first, then on a table of positions (V1)
            seen.setdefault(place.format(layer=layers[_LAYER]), Run(module_name, value))
            layers[place] += 1

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name, place)) for name, place in watched.items()]
    try:
        return seen, model(**batch, output_hidden_states=True)
    finally:
        for handle in handles:
            handle.remove()


def shown_name(place: str, run: Run) -> str:
    """The reference's name of a module, and the layer where the name does not tell it."""
    layer = layer_of(place)
    told = layer is None or re.search(rf"(^|\.)layer\.{layer}(\.|$)", run.module)
    return run.module if told else f"{run.module} in layer {layer}"
