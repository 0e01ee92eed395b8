"""The linear layer that some sentence-transformers folders put after the pooling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from minitrans.errors import CheckpointError, NotSupportedError
from minitrans.files import printable, read_json

if TYPE_CHECKING:
    from weights_convert.journal import Folder

# The name in config.json -> what it means here. The name is never imported.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.nn.modules.activation.Tanh": torch.tanh,
    "torch.nn.modules.linear.Identity": lambda x: x,
}
_USUAL = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding", "use_residual": False}
MAX_WIDTH = 2**20


class Dense(nn.Module):
    """activation(x W^T + b).

    Args:
        weight: (out, in).
        bias: (out), or None.
        activation: a key of ACTIVATIONS.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, in) -> (B, out)"""
        return ACTIVATIONS[self.activation](nn.functional.linear(x, self.weight, self.bias))


def read_dense(folder: Folder) -> Dense:
    """The layer in a folder with config.json and model.safetensors.

    Raises:
        CheckpointError: where a file is not what it must be. NotSupportedError: for options that are not offered.
    """
    from weights_convert.checkpoint import open_checkpoint

    path = folder.path("config.json")
    stored = read_json(path)
    shape = (_width(path, stored, "out_features"), _width(path, stored, "in_features"))
    activation = stored.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise NotSupportedError(
            f"{printable(path)}: activation_function: expected one of {', '.join(ACTIVATIONS)}, "
            f"found {printable(activation)!r}"
        )
    for key, usual in _USUAL.items():
        if stored.get(key) not in (None, usual):
            raise NotSupportedError(
                f"{printable(path)}: {key}: only {usual!r} is offered, found {printable(stored[key])!r}"
            )
    shapes = {"linear.weight": shape, **({"linear.bias": shape[:1]} if stored.get("bias", True) else {})}
    with open_checkpoint(folder) as checkpoint:
        found = {key: info.shape for key, info in checkpoint.tensors.items()}
        if found != shapes:
            raise CheckpointError(
                f"{printable(folder.path(checkpoint.files[0]))}: expected {_shown(shapes)}, found {_shown(found)}"
            )
        tensors = {key: checkpoint.read(key).clone() for key in shapes}
    return Dense(tensors["linear.weight"], tensors.get("linear.bias"), activation)


def _width(path: Path, stored: dict[str, Any], key: str) -> int:
    width = stored.get(key)
    if not isinstance(width, int) or isinstance(width, bool) or not 0 < width <= MAX_WIDTH:
        raise CheckpointError(
            f"{printable(path)}: {key}: expected a number from 1 to {MAX_WIDTH}, found {printable(width)}"
        )
    return width


def _shown(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{printable(key, 40)} {shape}" for key, shape in list(shapes.items())[:6]) or "no tensors"
