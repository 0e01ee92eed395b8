"""Elements further apart than 32 bits can count: the same bits as where they lie side by side.

The memory is set aside, and touched only where the elements are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from minitrans_kernels import layers
from minitrans_kernels.attention import configs, launch
from minitrans_kernels.attention.arguments import AttentionArgs
from torch import Tensor

from tests.kernels.interpreter.cases import Tiles, attention_args, upstream
from tests.kernels.layer_cases import EPS, integers, normal

FAR = 2**31  # elements


@pytest.fixture(scope="module")
def memory() -> Tensor:
    return torch.empty(FAR + 2**18, dtype=torch.float16)


class Spreading:
    """Copies of tensors in one memory, side by side except along one dimension, which reaches `FAR` elements."""

    def __init__(self, memory: Tensor) -> None:
        self._memory = memory.view(torch.uint8)
        self._used = 0

    def __call__(self, tensor: Tensor, dim: int) -> Tensor:
        stride = -(-FAR // (tensor.shape[dim] - 1))
        assert stride < FAR, "a stride that is itself beyond 32 bits is counted in 64 bits anyway"
        others = [size for place, size in enumerate(tensor.shape) if place != dim]
        strides = list(torch.empty(others, device="meta").stride())
        strides.insert(dim, stride)
        begin = self._used // tensor.itemsize
        self._used += tensor.nbytes
        return self._memory.view(tensor.dtype).as_strided(tensor.shape, strides, begin).copy_(tensor)


def results(call: AttentionArgs, of_out: Tensor, of_lse: Tensor, numbers: Tensor) -> list[Tensor]:
    """Of every attention kernel."""
    out, lse = launch.forward(call)
    found = [out, lse, *launch.backward(call, out, lse, of_out, of_lse, (True, True, True, True, True))]
    found += launch.backward(call, out, lse, of_out, of_lse, (False, True, True, False, False))[1:3]
    if configs.serves_short(call):
        found += launch.Backward(call, out, lse, of_out, of_lse).in_one_pass()
    found += [launch.attention_weights(call, lse, rows) for rows in (numbers, None)]
    return [tensor for tensor in found if tensor is not None]


@pytest.mark.parametrize(
    ("packed", "dim", "length", "count"),
    [(False, 0, 5, 3), (False, 1, 5, 3), (False, 2, 65, 1), (True, 0, 65, 1), (True, 1, 5, 3)],
    ids=["samples", "heads", "tokens", "packed tokens", "heads of packed tokens"],
)
def test_attention(tiles: Tiles, memory: Tensor, packed: bool, dim: int, length: int, count: int):
    """`count` samples and heads. Tokens are so many that a tile of 64 of them stays within 32 bits, as kernels expect."""
    tiles(16, 16)
    near = attention_args(
        packed=packed, lengths=(length, length), batch=count, heads=(count, count), width=40, dtype=torch.float16, distance_bias=True, window=(9, 9),
        padding=None if packed else "holes", global_tokens=True, dropout_p=0.3, bias=(0, 1) if dim == 1 or packed else (1, 0),
    )  # fmt: skip
    if packed and dim == 0:  # the last sequence begins with the last token
        starts = [torch.tensor([0, 40, len(x) - 1, len(x)], dtype=torch.int32) for x in (near.query, near.key)]
        near = replace(near, cu_seqlens_q=starts[0], cu_seqlens_k=starts[1])
    assert near.bias is not None
    assert near.global_tokens is not None
    spread = Spreading(memory)
    places = {"query": dim, "key": dim, "value": dim, "bias": dim}
    if not packed and dim != 1:
        places |= {"key_padding": min(dim, 1), "global_tokens": min(dim, 1)}
    elif packed:
        places |= {"bias": 1 if dim else 2, "global_tokens": 0}
    far = replace(near, **{name: spread(getattr(near, name), place) for name, place in places.items()})
    of_out, of_lse = (gradient.half() for gradient in upstream(near))
    numbers = torch.tensor([2, 0, near.query.shape[-3 if packed else -2] - 1])
    expected = results(near, of_out, of_lse, numbers)
    found = results(far, spread(of_out, dim), spread(of_lse, dim), numbers)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def evaluated(
    call: Callable[..., Tensor | tuple[Tensor, ...]], inputs: list[Tensor], grads: list[Tensor]
) -> list[Tensor]:
    """Outputs, and gradients of the inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    found = call(*leaves)
    outputs = found if isinstance(found, tuple) else (found,)
    return [*outputs, *torch.autograd.grad(outputs, leaves, grads, materialize_grads=True)]


IDS, VECTOR = integers(3, 3), normal(16).half()
CALLS: dict[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "add_dropout_layer_norm": lambda x, y: layers.add_dropout_layer_norm(
        x, y, VECTOR, VECTOR, eps=EPS, dropout_p=0.3, dropout_seed=5, return_sum=True
    ),
    "rms_norm": lambda x, y: layers.rms_norm(x, VECTOR, eps=EPS),
    "bias_gelu": lambda x, y: layers.bias_gelu(x, VECTOR),
    "embedding_layer_norm": lambda x, y: layers.embedding_layer_norm(
        IDS, IDS, None, y, x, None, VECTOR, VECTOR, eps=EPS
    ),
    "masked_lm_loss": lambda x, y: layers.masked_lm_loss(x, IDS, normal(5, 16).half(), None),
}


@pytest.mark.parametrize("name", CALLS)
def test_layers(memory: Tensor, name: str):
    """Rows of x and y, and of the gradients of what they give."""
    x, y = normal(3, 16).half(), normal(3, 16, seed=1).half()
    outputs = CALLS[name](x, y)
    grads = [normal(*z.shape, seed=2).to(z.dtype) for z in (outputs if isinstance(outputs, tuple) else (outputs,))]
    spread = Spreading(memory)
    far_grads = [spread(grad, 0) if grad.dim() == 2 else grad for grad in grads]
    expected = evaluated(CALLS[name], [x, y], grads)
    for ours, theirs in zip(evaluated(CALLS[name], [spread(x, 0), spread(y, 0)], far_grads), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_row_at_the_end_of_a_table(memory: Tensor):
    table = memory[: FAR + 2**12].view(-1, 2**12)
    last = len(table) - 1
    table[-1] = 1.0
    table[-1, 0] = 5.0
    table[0] = 0.0
    ids, zero, vector = torch.tensor([last]), torch.tensor([0]), torch.ones(2**12).half()
    with torch.no_grad():
        found = layers.embedding_layer_norm(ids, zero, None, table, table[:1], None, vector, vector * 0, eps=EPS)
    torch.testing.assert_close(found[0], torch.nn.functional.layer_norm(table[-1].float(), (2**12,), eps=EPS).half())
