"""The hyperbolic tangent of the softcap, as accurate near 0 as anywhere."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from minitrans_kernels.attention.tiles import _tanh


@triton.jit
def tanh_kernel(x, y, count: tl.constexpr):
    place = tl.arange(0, count)
    tl.store(y + place, _tanh(tl.load(x + place)))


# the number that is subtracted from 1 is rounded where its size is 1, and what is left has the size of tanh
@pytest.mark.parametrize(("least", "most", "roundings"), [(1e-30, 0.25, 3), (0.25, 30.0, 8)])
def test_tanh(least: float, most: float, roundings: int):
    sizes = torch.logspace(torch.tensor(least).log10().item(), torch.tensor(most).log10().item(), 2048)
    x = torch.cat([sizes, -sizes])
    y = torch.empty_like(x)
    tanh_kernel[(1,)](x, y, len(x))
    expected = torch.tanh(x.double())
    assert ((y.double() - expected) / expected).abs().max() <= roundings * torch.finfo(torch.float32).eps
