"""State dicts with the reference's names into a model that is there, and what tools have put into the reference's modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from minitrans.files import printable
from minitrans.models.loading import family_of, shapes_of
from weights_convert.filling import fill_parameters
from weights_convert.names import bare_names
from weights_convert.own_names import languages, own_module_names
from weights_convert.report import ConversionReport
from weights_convert.state_dict import StateDict
from weights_convert.translate import translate


@torch.no_grad()
def fill_model(model: Any, state_dict: Mapping[str, torch.Tensor], *, strict: bool) -> ConversionReport:
    """Fills a model from a state dict by the reference's names or by ours; `strict`: all of it.

    Raises:
        CheckpointError: naming every fault. TypeError: for anything but names and tensors.
    """
    job = translate(StateDict(state_dict), family_of(model.config.model_type), model.config, shapes_of(model))
    if job.broken:
        job.faults += [
            f"state_dict: {note}; from_pretrained(..., state_dict=...) does that" for note in job.report.notes
        ]
    if strict:
        job.faults += [
            f"state_dict: {name}: expected a tensor, found none (strict=False leaves it)" for name in job.report.fresh
        ]
    job.require_sound(type(model).__name__)
    fill_parameters(job, model.state_dict(keep_vars=True))
    return job.report


def load_reference_names(model: Any, state: dict[str, Any], prefix: str) -> list[str]:
    """Gives what stands in a state dict under `prefix` in the reference's names our names instead; returns what is at fault.

    What a tool has put into a module of the reference, as peft does, goes into the same module of ours.
    """
    family = family_of(model.config.model_type)
    table = family.table(model.config)
    keys, _ = bare_names((key.removeprefix(prefix) for key in state if key.startswith(prefix)), family.prefixes)
    faults: list[str] = []
    if languages(table, keys)[0]:
        given = StateDict({key: state.pop(prefix + key) for key in keys.values()})
        job = translate(given, family, model.config, shapes_of(model))
        faults += job.plan.faults
        if job.broken:
            faults += [f"{note}; from_pretrained(..., state_dict=...) does that" for note in job.report.notes]
        state.update({prefix + name: tensor for name, tensor in job.by_our_names().items()})
        keys = {bare: keys[bare] for bare in job.plan.unknown if not languages(table, [bare])[0]}
    return faults + _into_modules(own_module_names(table, keys), keys, model, state, prefix)


def _into_modules(
    moved: Mapping[str, str], keys: Mapping[str, str], model: Any, state: dict[str, Any], prefix: str
) -> list[str]:
    """Moves what lies in modules of the reference into ours; returns what found no place."""
    places = _places(shapes_of(model)) if moved else {}
    faults: list[str] = []
    for bare, ours in moved.items():
        tensor = state.pop(prefix + keys[bare])
        found = places.get(keys[bare].removesuffix(bare) + ours, [])
        if len(found) == 1:
            state[prefix + found[0]] = tensor
            continue
        told = "nothing was put" if not found else "several adapters were put"
        module = printable(ours.partition(".lora_")[0])
        faults.append(f"{printable(bare)}: made for a module of the reference; {told} into {module}, as it is here")
    if not faults:
        return []
    return [
        *faults[:4], *([f"and {len(faults) - 4} more"] if len(faults) > 4 else []),
        "an adapter finds its modules by their names: say those of this model in target_modules, or merge it into its base "
        "model with the reference (merge_and_unload, then save_pretrained) and load the folder",
    ]  # fmt: skip


def _places(names: Iterable[str]) -> dict[str, list[str]]:
    """Each name by itself, and without the name of an adapter: peft leaves it out of its files."""
    places: dict[str, list[str]] = {}
    for name in names:
        start, _, last = name.rpartition(".")
        for short in {name, start, f"{start.rpartition('.')[0]}.{last}"}:
            places.setdefault(short, []).append(name)
    return places
