"""Whether a call runs on Triton here, and for which architecture its configuration is chosen."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from minitrans_kernels.availability import available, interpreting

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")


def runs_on_triton(tensor: Tensor) -> bool:
    """Whether kernels of this package can compute on this tensor; otherwise the PyTorch path does."""
    if tensor.is_cuda:
        return _usable()
    return tensor.device.type == "cpu" and interpreting()


def architecture(device: torch.device) -> str:
    """The newest row of `ARCHITECTURES` that this device runs; in the interpreter "sm_90"."""
    if device.type != "cuda":
        return "sm_90"
    capability = torch.cuda.get_device_capability(device)
    known = [(int(name[3:-1]), int(name[-1])) for name in ARCHITECTURES]
    return max((version, name) for version, name in zip(known, ARCHITECTURES, strict=True) if version <= capability)[1]


@cache
def _usable() -> bool:
    return available()[0]
