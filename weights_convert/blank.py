"""A model of the right shapes that costs neither memory nor random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from minitrans.models.pretrained import PreTrainedModel

Model = TypeVar("Model", bound="PreTrainedModel")


class _NoInitialisation(TorchFunctionMode):
    """Leaves out random initialisation: on a tensor without memory it does nothing, slowly (it loads torch's compiler)."""

    skipped = (
        nn.init.normal_,
        nn.init.uniform_,
        nn.init.trunc_normal_,
        nn.init.kaiming_uniform_,
        nn.init.kaiming_normal_,
        nn.init.xavier_uniform_,
        nn.init.xavier_normal_,
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
    )

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.skipped:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def blank_model(cls: type[Model], config: Any, parts: Mapping[str, bool] | None = None) -> Model:
    """A model whose parameters have shapes and no memory; the global random state is left alone."""
    with torch.device("meta"), _NoInitialisation():
        return cls(config, **(parts or {}))
