"""The kernel of probabilities, interpreted: every option, several tiles of rows and of keys, all rows and some in any order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from minitrans_kernels import BlockLayout, RelativeBias, attention_weights
from minitrans_kernels.attention import launch
from minitrans_kernels.attention.arguments import padded
from minitrans_kernels.attention.reference import reference_attention
from torch import Tensor

from tests.kernels.interpreter.cases import poisoned_memory

B, H, G, T, S = 2, 4, 2, 37, 70
SHARED, OF_EACH = torch.tensor([36, 0, 3, *range(1, 30, 2), 3]), torch.tensor([[1, 2, 2], [36, 0, 5]])

draw = torch.Generator().manual_seed(0)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale": {"scale": -0.3},
    "padding": {"key_padding": torch.cat([torch.rand(1, S, generator=draw) > 0.3, torch.zeros(1, S, dtype=torch.bool)])},
    "causal": {"causal": True},
    "window, global tokens": {"window": (4, 9), "global_tokens": torch.rand(B, S, generator=draw) > 0.9},
    "blocks": {"block_layout": BlockLayout(torch.rand(H, 8, 14, generator=draw) > 0.4, 5)},
    "bias": {"bias": torch.randn(1, H, T, S, generator=draw)},
    "bias of a sample": {"bias": torch.randn(B, 1, T, S, generator=draw).masked_fill(torch.rand(T, S, generator=draw) < 0.2, -torch.inf)},
    "distances, softcap": {
        "relative_bias": RelativeBias(torch.randn(8, H, generator=draw), True, 40), "alibi_slopes": torch.rand(H, generator=draw),
        "softcap": 3.0,
    },
}  # fmt: skip
OPTIONS["everything"] = {name: value for options in OPTIONS.values() for name, value in options.items()}


@pytest.mark.parametrize("wanted", [None, SHARED, OF_EACH], ids=["all", "shared", "of each sample"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("width", "dtype", "strided"), [(16, torch.float32, False), (24, torch.float16, True)])
def test_rows(width: int, dtype: torch.dtype, strided: bool, options: str, wanted: Tensor | None):
    torch.manual_seed(0)
    q, k = torch.randn(B, T, H, width).to(dtype), torch.randn(B, S, G, width).to(dtype)
    q, k = (x.transpose(1, 2) if strided else x.transpose(1, 2).contiguous() for x in (q, k))
    given = OPTIONS[options]
    wide = {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in given.items()
    }
    _, lse, probabilities = reference_attention(q.double(), k.double(), k.double(), **wide)
    rows = torch.arange(T) if wanted is None else wanted
    expected = torch.stack([probabilities[b][:, rows if rows.dim() == 1 else rows[b]] for b in range(B)])
    with poisoned_memory():
        found = attention_weights(q, k, lse.float(), wanted, **given)
    assert found.dtype == torch.float32
    # float32 scores of size 10 err by 1e-6, their exponential by as much of itself
    torch.testing.assert_close(found.double(), expected, atol=1e-7, rtol=1e-5)


def test_rows_that_do_not_exist_give_zeros_and_read_nothing():
    q, k = torch.randn(B, H, T, 16), torch.randn(B, H, S, 16)
    bias = torch.randn(1, H, T, S)
    args = padded(q, k, None, None, {"causal": True, "window": (3, 3), "bias": bias})
    found = launch.attention_weights(args, torch.zeros(B, H, T), torch.tensor([-1, T, 2**40]))
    assert (found == 0).all()


def test_rows_of_every_other_row_number():
    """Neither the row numbers nor the log-sum-exp need be contiguous."""
    q, k = torch.randn(B, H, T, 16), torch.randn(B, H, S, 16)
    lse = torch.logsumexp(q @ k.mT * 0.25, -1)
    strided = torch.stack([lse, lse], -1)[..., 0]
    numbers = torch.arange(12).view(2, 6)[:, ::2]
    assert torch.equal(attention_weights(q, k, strided, numbers), attention_weights(q, k, lse, numbers.contiguous()))
