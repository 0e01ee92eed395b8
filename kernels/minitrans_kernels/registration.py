"""How the functions of this package become operators of PyTorch: opaque to its compiler, known to its autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Operator:
    """An operator of `torch.ops`, called through as little Python as eager mode lets it.

    A compiler sees the operator and the derivative registered with it. An eager call that may need a gradient takes the
    same derivative by way of `torch.autograd.Function`: the way through `torch.library` takes several times as long.

    Attributes:
        overload: what stands in `torch.ops`.
    """

    def __init__(self, name: str, compute: Callable[..., Any], schema: str | None = None) -> None:
        """`name` is "namespace::operator"; the schema is that of the annotations of `compute` unless it is given."""
        schema = torch.library.infer_schema(compute, mutates_args=()) if schema is None else schema
        torch.library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(name, "default", compute)
        namespace, _, operator = name.partition("::")
        self.overload: Any = getattr(getattr(torch.ops, namespace), operator).default
        self._name = name
        self._differentiable: Callable[..., Any] | None = None

    def register_fake(self, fake: _Function) -> _Function:
        """`fake` returns tensors of the right shape, dtype, device and strides, with nothing in them."""
        torch.library.register_fake(self._name, fake)
        return fake

    def register_autograd(
        self, backward: Callable[..., Any], *, setup_context: Callable[[Any, tuple[Any, ...], Any], None]
    ) -> None:
        """`setup_context(ctx, inputs, output)` keeps what `backward(ctx, *gradients)` will need."""
        torch.library.register_autograd(self._name, backward, setup_context=setup_context)
        overload = self.overload

        def forward(ctx: Any, *inputs: Any) -> Any:
            output = overload(*inputs)
            setup_context(ctx, inputs, output)
            return output

        methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        function: Any = type(overload.name().partition("::")[2], (torch.autograd.Function,), methods)
        self._differentiable = function.apply

    def __call__(self, *inputs: Any) -> Any:
        """What the operator computes."""
        if self._differentiable is None or torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return self.overload(*inputs)
        return self._differentiable(*inputs)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """A decorator: the function as `Operator` under this name, with the schema of its annotations."""
    return lambda compute: Operator(name, compute)
