"""The baseline of the benchmarks is right too: a wrong rival would be no rival."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.plain_triton import plain_attention


@pytest.mark.parametrize(("length", "width"), [(1, 16), (24, 16), (150, 32), (256, 64)])
def test_output_and_gradients(length: int, width: int):
    torch.manual_seed(0)
    leaves = [torch.randn(2, 2, length, width, requires_grad=True) for _ in range(3)]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    grad = torch.randn(2, 2, length, width)
    out = plain_attention(*leaves)
    wanted = scaled_dot_product_attention(*exact)
    found = (out, *torch.autograd.grad(out, leaves, grad))
    for one, other in zip(found, (wanted, *torch.autograd.grad(wanted, exact, grad.double())), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-5)
