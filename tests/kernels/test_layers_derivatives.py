"""The layers' operators: derivatives by finite differences to second order, PyTorch's own check, compilation without a break."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from minitrans_kernels.layers import embedding, gelu, layer_norm, masked_loss, rms
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from tests.kernels.layer_cases import CALLS, Call, evaluate, normal

NAMES = list(CALLS)


@pytest.mark.parametrize("call", CALLS.values(), ids=NAMES)
def test_derivatives_of_first_and_second_order(call: Call) -> None:
    inputs = tuple(tensor.clone().requires_grad_() for tensor in call.inputs)
    if call.ours.__qualname__.startswith("embedding"):
        # rows of padding have a derivative that the gradient leaves out on purpose
        word, position = inputs[0].detach(), inputs[1].detach()

        def ours(inner_word: Tensor, inner_position: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
            words = torch.cat([word[:1], inner_word])
            positions = torch.cat([position[:1], position[1:2], inner_position])
            return call.ours(words, positions, *rest)

        inputs = (word[1:].requires_grad_(), position[2:].requires_grad_(), *inputs[2:])
    else:
        ours = call.ours
    assert gradcheck(ours, inputs)
    assert gradgradcheck(ours, inputs)


def leaf(*shape: int) -> Tensor:
    return normal(*shape).float().requires_grad_()


def operator_samples() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    rows, weight, bias, ids = leaf(5, 7), leaf(7), leaf(7), torch.tensor([1, 0, 2, 2, 0])
    seed, statistic = torch.tensor([3]), torch.ones(5)
    table, count = leaf(4, 7), torch.tensor(3)
    half = normal(5, 7).bfloat16()
    tables = (ids, ids, ids, table, leaf(6, 7), leaf(3, 7), weight, bias)
    untyped = (ids, ids, None, table, leaf(6, 7), None, weight, bias)
    plain = [tensor.detach() if isinstance(tensor, Tensor) else tensor for tensor in tables]
    return {
        "layer_norm": (layer_norm.forward, (rows, leaf(5, 7), weight, bias, seed, 1e-5, 0.3, True)),
        "layer_norm without": (layer_norm.forward, (half, rows.detach(), weight.detach(), None, None, 1e-5, 0.0, False)),
        "layer_norm_backward": (
            layer_norm.backward,
            (half, half, half, weight.detach(), bias.detach(), statistic, statistic, seed, 0.3, True,
             torch.float16, torch.bfloat16),
        ),
        "layer_norm_backward without": (
            layer_norm.backward,
            (half, None, half, weight.detach(), None, statistic, statistic, None, 0.0, False,
             torch.bfloat16, torch.bfloat16),
        ),
        "rms_norm": (rms.forward, (rows, weight, 1e-5)),
        "rms_norm_backward": (rms.backward, (half, half, weight.detach(), statistic, 1e-5)),
        "bias_gelu": (gelu.forward, (rows, bias, "tanh")),
        "bias_gelu_backward": (gelu.backward, (half, half, bias.detach(), "none")),
        "embedding_layer_norm": (embedding.forward, (*tables, seed, 1e-5, 0.3, 0, -1)),
        "embedding_layer_norm without": (embedding.forward, (*untyped, None, 1e-5, 0.0, -1, -1)),
        "embedding_layer_norm_backward": (
            embedding.backward, (rows.detach(), *plain, statistic, statistic, seed, 0.3, 0, -1),
        ),
        "masked_lm_loss": (masked_loss.forward, (rows, ids, table, leaf(4), torch.arange(5), count)),
        "masked_lm_loss_backward": (
            masked_loss.backward,
            (torch.tensor(1.0), rows.detach(), ids, table.detach(), None, torch.arange(5), count, torch.ones(2, 5)),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", operator_samples())
def test_operators_pass_the_check_of_pytorch(name: str) -> None:
    operator, arguments = operator_samples()[name]
    torch.library.opcheck(operator.overload, arguments)


@pytest.mark.parametrize("call", CALLS.values(), ids=NAMES)
def test_compiles_without_a_break(call: Call) -> None:
    torch.compiler.reset()
    compiled = torch.compile(call.ours, fullgraph=True, backend="aot_eager")
    inputs = tuple(tensor.float() for tensor in call.inputs)
    for found, expected in zip(
        evaluate(compiled, inputs, torch.float32), evaluate(call.ours, inputs, torch.float32), strict=True
    ):
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["layer norm, dropout", "rms norm", "gelu", "embedding", "masked loss"])
def test_the_compiled_backward_is_one_operator(name: str) -> None:
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        graphs.append(graph.print_readable(print_output=False))
        return make_boxed_func(graph.forward)

    torch.compiler.reset()
    compiler = torch._dynamo.backends.common.aot_autograd(fw_compiler=backend, bw_compiler=backend)
    call = CALLS[name]
    evaluate(torch.compile(call.ours, fullgraph=True, backend=compiler), call.inputs, torch.float32)
    forward, backward = graphs
    assert forward.count("torch.ops.minitrans_kernels.") == 1
    assert backward.count("torch.ops.minitrans_kernels.") == 1
