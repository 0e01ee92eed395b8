"""The checks that the functions of this folder share; all raise before any launch."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans_kernels.dropout import seed_tensor, threshold
from minitrans_kernels.runtime import runs_on_triton

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# the widest row that a norm kernel holds in one tile
MAX_WIDTH = 8192
# where it also holds rows of three tables
MAX_EMBEDDING_WIDTH = 4096


def check_floats(anchor: Tensor, **operands: Tensor | None) -> None:
    """Raise unless all operands are floating point, on the device of the anchor, and of a dtype that its path computes."""
    for name, tensor in operands.items():
        if tensor is None:
            continue
        if tensor.dtype not in FLOATS:
            raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {tensor.dtype}")
        if tensor.dtype == torch.float64 and runs_on_triton(tensor):
            raise TypeError(f"{name} is float64, which the Triton kernels do not compute: use float32, or CPU tensors")
        check_device(anchor, name, tensor)


def check_device(anchor: Tensor, name: str, tensor: Tensor) -> None:
    """Raise ValueError unless the tensor is on the device of the anchor."""
    if tensor.device != anchor.device:
        raise ValueError(f"{name} is on {tensor.device}, the other arguments on {anchor.device}")


def check_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the tensor, where there is one, has this shape."""
    if tensor is not None and tensor.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(tensor.shape)}")


def check_width(name: str, tensor: Tensor, limit: int = MAX_WIDTH) -> int:
    """The size D of the last dimension; ValueError where it is missing, empty, or wider than a kernel's tile."""
    if tensor.ndim == 0 or tensor.shape[-1] == 0:
        raise ValueError(f"{name} must be (..., D) with D at least 1, got shape {tuple(tensor.shape)}")
    if tensor.shape[-1] > limit and runs_on_triton(tensor):
        raise ValueError(f"the kernel holds rows of at most {limit}, {name} has shape {tuple(tensor.shape)}")
    return tensor.shape[-1]


def check_eps(eps: float) -> None:
    """Raise ValueError unless eps is a non-negative number."""
    if not eps >= 0.0:
        raise ValueError(f"eps must not be negative, got {eps}")


def checked_seed(p: float, seed: int | Tensor | None, device: torch.device) -> Tensor | None:
    """The seed as a (1) int64 tensor on the device, None where nothing is dropped; ValueError for a wrong p, or no seed."""
    threshold(p)
    if p == 0.0:
        return None
    if seed is None:
        raise ValueError(f"dropout_p is {p}: give dropout_seed, which decides what is dropped")
    return seed_tensor(seed, device)
