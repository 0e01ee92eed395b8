"""Giving a planned model its memory and its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from weights_convert.checkpoint import Checkpoint
from weights_convert.plan import Plan
from weights_convert.report import ConversionReport, TensorRow, dtype_name, tensor_sha256

if TYPE_CHECKING:
    from minitrans.models.pretrained import PreTrainedModel


def materialise(
    model: PreTrainedModel, dtype: torch.dtype, device: torch.device | str | None, fresh: list[str]
) -> None:
    """Gives every parameter memory of its own, keeps ties, and initialises the modules that own a fresh parameter."""
    device = torch.device("cpu" if device is None else device)
    made: dict[int, nn.Parameter] = {}
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in made:
                values = torch.empty(parameter.shape, dtype=dtype, device=device)
                made[id(parameter)] = nn.Parameter(values, requires_grad=parameter.requires_grad)
            setattr(module, name, made[id(parameter)])
    for owner in dict.fromkeys(name.rpartition(".")[0] for name in fresh):
        model.init_weights(model.get_submodule(owner))


@dataclass(frozen=True)
class Filling:
    """What `fill_parameters` needs: the model, the plan for it, and where the tensors are."""

    model: PreTrainedModel
    targets: Mapping[str, str]
    plan: Plan
    checkpoint: Checkpoint
    names: Mapping[str, str]
    hashes: bool


@torch.no_grad()
def fill_parameters(job: Filling, report: ConversionReport) -> None:
    """Copies every planned tensor into its parameter, one row of the report each."""
    parameters = dict(job.model.named_parameters(remove_duplicate=False))
    first_name: dict[int, str] = {}
    for name, parameter in parameters.items():
        first_name.setdefault(id(parameter), name)
    filled: set[int] = set()
    rows: dict[str, TensorRow] = {}
    keys_of = {name: job.names[job.plan.served_by.get(name, name)] for step in job.plan.steps for name in step.sources}
    for step in sorted(job.plan.steps, key=lambda step: job.checkpoint.tensors[keys_of[step.sources[0]]].file):
        keys = tuple(keys_of[name] for name in step.sources)
        stored = [job.checkpoint.read(key) for key in keys]
        for bare, tensor in zip(step.targets, step.rule.apply(stored), strict=True):
            name = job.targets[bare]
            parameter = parameters[name]
            if id(parameter) not in filled:
                parameter.copy_(tensor)
                filled.add(id(parameter))
            rows[name] = TensorRow(
                target=name,
                file=job.checkpoint.tensors[keys[0]].file,
                sources=keys,
                rule=type(step.rule).__name__,
                stored=dtype_name(tensor.dtype),
                dtype=dtype_name(parameter.dtype),
                shape=tuple(parameter.shape),
                tied_to=None if first_name[id(parameter)] == name else first_name[id(parameter)],
                sha256=tensor_sha256(tensor) if job.hashes else None,
                finite=_is_finite(tensor),
            )
    report.rows = [rows[name] for name in parameters if name in rows]


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite, in one pass and without a copy."""
    if tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))
