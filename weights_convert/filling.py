"""Giving a planned model its memory and its values."""

from __future__ import annotations

from collections.abc import Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from weights_convert.checkpoint import Checkpoint
from weights_convert.plan import Plan, Step, TensorInfo
from weights_convert.report import ConversionReport, TensorRow, dtype_name, tensor_sha256
from weights_convert.rules import Rename

if TYPE_CHECKING:
    from minitrans.models.pretrained import PreTrainedModel

# The integers as wide as each dtype of weights.
INTEGERS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
# +inf of each, read as that integer.
INFINITIES = {dtype: int(torch.tensor(torch.inf, dtype=dtype).view(bits)) for dtype, bits in INTEGERS.items()}


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

    def keys(self, step: Step) -> tuple[str, ...]:
        """The keys in the files that a step reads."""
        return tuple(self.names[self.plan.served_by.get(name, name)] for name in step.sources)


def fill_parameters(job: Filling, report: ConversionReport) -> None:
    """Copies every planned tensor into its parameter, one row of the report each, with as many threads as torch may use."""
    parameters = {name: p.detach() for name, p in job.model.named_parameters(remove_duplicate=False)}
    owners: dict[int, str] = {}  # address -> the name under which tied parameters are filled
    tied_to: dict[str, str] = {}
    for name, parameter in job.model.named_parameters(remove_duplicate=False):
        owner = owners.setdefault(id(parameter), name)
        if owner != name:
            tied_to[name] = owner
    steps = sorted(job.plan.steps, key=lambda step: job.checkpoint.tensors[job.keys(step)[0]].file)
    filled = {job.targets[bare] for step in steps for bare in step.targets}
    copied = {name for name in filled if tied_to.get(name) not in filled}

    def fill(step: Step) -> list[TensorRow]:
        return _fill(job, step, parameters, copied, tied_to)

    with ThreadPoolExecutor(1 if job.checkpoint.pickled else torch.get_num_threads()) as pool:
        rows = {row.target: row for some in pool.map(fill, steps) for row in some}
    report.rows = [rows[name] for name in parameters if name in rows]


def _fill(
    job: Filling,
    step: Step,
    parameters: Mapping[str, torch.Tensor],
    copied: Set[str],
    tied_to: Mapping[str, str],
) -> list[TensorRow]:
    """Carries out one step; only the parameters in `copied` get values, the others are the same tensors by other names."""
    keys = job.keys(step)
    names = [job.targets[bare] for bare in step.targets]
    info = job.checkpoint.tensors[keys[0]]
    whole = parameters[names[0]]
    if isinstance(step.rule, Rename) and not job.checkpoint.pickled and _takes_bytes(whole, info):
        values = whole if names[0] in copied else torch.empty_like(whole)
        found = {_is_finite(piece) for piece in job.checkpoint.read_pieces(keys[0], values)}  # reads to the end
        finite = [False not in found]
        tensors = [values]
    else:
        tensors = step.rule.apply([job.checkpoint.read(key) for key in keys])
        finite = [_is_finite(tensor) for tensor in tensors]
        for name, tensor in zip(names, tensors, strict=True):
            if name in copied:
                parameters[name].copy_(tensor)
    return [
        TensorRow(
            target=name,
            file=info.file,
            sources=keys,
            rule=type(step.rule).__name__,
            stored=dtype_name(tensor.dtype),
            dtype=dtype_name(parameters[name].dtype),
            shape=tuple(parameters[name].shape),
            tied_to=tied_to.get(name),
            sha256=tensor_sha256(tensor) if job.hashes else None,
            finite=is_finite,
        )
        for name, tensor, is_finite in zip(names, tensors, finite, strict=True)
    ]


def _takes_bytes(parameter: torch.Tensor, info: TensorInfo) -> bool:
    """Whether the stored bytes are the parameter's own."""
    return parameter.device.type == "cpu" and parameter.dtype == info.dtype and parameter.is_contiguous()


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite, by its bits, without a copy and in this thread alone.

    Read as an integer with a sign, every positive number that is not finite is at least +inf; read as one without, every
    negative such number is at least -inf, and everything else below it. numpy takes the maximum, because torch would start
    threads of its own beneath each of ours.
    """
    if tensor.numel() == 0:
        return True
    bits = tensor.detach().view(INTEGERS[tensor.dtype]).numpy()
    infinity = INFINITIES[tensor.dtype]
    sign = 1 << (8 * bits.itemsize - 1)
    return int(bits.max()) < infinity and int(bits.view(f"u{bits.itemsize}").max()) < infinity + sign
