"""Giving planned parameters their values."""

from __future__ import annotations

from collections.abc import Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from weights_convert.plan import Step, TensorInfo
from weights_convert.report import TensorRow, dtype_name, tensor_sha256
from weights_convert.rules import Rename
from weights_convert.translate import Translation

# The integers as wide as each dtype of weights.
INTEGERS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
# +inf of each, read as that integer.
INFINITIES = {dtype: int(torch.tensor(torch.inf, dtype=dtype).view(bits)) for dtype, bits in INTEGERS.items()}


def fill_parameters(job: Translation, parameters: Mapping[str, torch.Tensor], *, hashes: bool = False) -> None:
    """Copies every planned tensor into its parameter, by the model's names, and completes the report, a row each.

    One tensor under two names is a tie, and filled once. As many threads work as torch may use. With `hashes` the rows
    carry the SHA-256 of what was stored.
    """
    owners: dict[int, str] = {}  # identity -> the name under which tied parameters are filled
    tied_to: dict[str, str] = {}
    for name, parameter in parameters.items():
        owner = owners.setdefault(id(parameter), name)
        if owner != name:
            tied_to[name] = owner
    values = {name: parameter.detach() for name, parameter in parameters.items()}
    steps = sorted(job.plan.steps, key=lambda step: job.checkpoint.tensors[job.keys_of(step)[0]].file)
    filled = {job.targets[bare] for step in steps for bare in step.targets}
    copied = {name for name in filled if tied_to.get(name) not in filled}

    def fill(step: Step) -> list[TensorRow]:
        rows = _fill(job, step, values, copied, hashes)
        return [replace(row, tied_to=tied_to.get(row.target)) for row in rows]

    threads = 1 if job.checkpoint.pickled else torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        filled_steps = pool.map(fill, steps) if threads > 1 else map(fill, steps)
        rows = {row.target: row for some in filled_steps for row in some}
    job.report.rows = [rows[name] for name in parameters if name in rows]


def _fill(
    job: Translation, step: Step, parameters: Mapping[str, torch.Tensor], copied: Set[str], hashes: bool
) -> list[TensorRow]:
    """Carries out one step; only the parameters in `copied` get values, the others are the same tensors by other names."""
    keys = job.keys_of(step)
    names = [job.targets[bare] for bare in step.targets]
    info = job.checkpoint.tensors[keys[0]]
    whole = parameters[names[0]]
    checkpoint = job.checkpoint
    if not checkpoint.pickled and type(step.rule) is Rename and _takes_bytes(whole, info):
        values = whole if names[0] in copied else torch.empty_like(whole)
        found = {_is_finite(piece) for piece in checkpoint.read_pieces(keys[0], values)}  # reads to the end
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
            sha256=tensor_sha256(tensor) if hashes else None,
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
    bits = tensor.detach().cpu().view(INTEGERS[tensor.dtype]).numpy()
    infinity = INFINITIES[tensor.dtype]
    sign = 1 << (8 * bits.itemsize - 1)
    return int(bits.max()) < infinity and int(bits.view(f"u{bits.itemsize}").max()) < infinity + sign
