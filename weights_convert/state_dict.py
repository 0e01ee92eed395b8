"""Tensors that somebody holds in memory, as what a checkpoint is to the translator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from minitrans.files import printable
from weights_convert.plan import TensorInfo

NAME = "state_dict"


class StateDict:
    """`tensors`: key -> what is held; `read` gives the values."""

    source = NAME
    place = ""
    pickled = True  # a thread gains nothing, and there is nothing to be read in pieces

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        """Raises TypeError for anything but names and plain tensors."""
        if not isinstance(state, Mapping):
            raise TypeError(f"{NAME}: expected names and their tensors, got {type(state).__name__}")
        for key, tensor in state.items():
            if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
                inner = "; pass the mapping that stands there" if isinstance(tensor, Mapping) else ""
                raise TypeError(f"{NAME}: {printable(key)}: expected a tensor, got {type(tensor).__name__}{inner}")
            if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
                found = f"{tensor.layout}, {tensor.dtype}, {tensor.device}"
                raise TypeError(f"{NAME}: {printable(key)}: expected a plain dense tensor, got {found}")
        self._state = state
        self.tensors = {key: TensorInfo(key, t.dtype, tuple(t.shape), NAME) for key, t in state.items()}

    def read(self, key: str) -> torch.Tensor:
        """The tensor called `key`, where it is."""
        return self._state[key].detach()

    def read_pieces(self, key: str, values: torch.Tensor) -> Iterator[torch.Tensor]:
        """Of files only."""
        raise NotImplementedError
