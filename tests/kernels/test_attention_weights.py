"""`attention_weights` gives the probabilities that the reference holds, all rows or some."""

from __future__ import annotations

import pytest
import torch
from minitrans_kernels import BlockLayout, RelativeBias, attention, attention_weights
from minitrans_kernels.attention.reference import reference_attention

B, H, G, T, S, K = 2, 4, 2, 9, 13, 16


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "rows", [None, torch.tensor([8, 0, 3]), torch.tensor([[8, 0, 3], [1, 1, 2]])], ids=["all", "shared", "of each"]
)
def test_rows_of_the_probabilities(dtype: torch.dtype, rows: torch.Tensor | None):
    torch.manual_seed(0)
    q, k, v = (torch.randn(shape, dtype=dtype) for shape in ((B, H, T, K), (B, G, S, K), (B, G, S, K)))
    padding = torch.rand(B, S) > 0.3
    padding[1] = False
    options = {
        "key_padding": padding, "window": (5, 2), "global_tokens": torch.rand(B, S) > 0.8, "softcap": 5.0,
        "block_layout": BlockLayout(torch.rand(1, 5, 7) > 0.3, 2), "bias": torch.randn(1, H, T, S, dtype=dtype),
        "relative_bias": RelativeBias(torch.randn(8, H, dtype=dtype), True, 11), "alibi_slopes": torch.rand(H, dtype=dtype),
    }  # fmt: skip
    _, lse = attention(q, k, v, return_lse=True, dropout_p=0.5, **options)
    found = attention_weights(q, k, lse, rows, dropout_p=0.5, **options)  # as the attention had them; without dropout
    wide = {
        name: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in options.items()
    }
    wide["relative_bias"] = RelativeBias(options["relative_bias"].table.double(), True, 11)
    *_, probabilities = reference_attention(q.double(), k.double(), v.double(), **wide)
    rows = torch.arange(T) if rows is None else rows
    expected = torch.stack([probabilities[b][:, rows[b] if rows.dim() == 2 else rows] for b in range(B)])
    assert found.dtype == lse.dtype
    torch.testing.assert_close(found.double(), expected, atol=1e-12 if dtype == torch.float64 else 2e-6, rtol=0)
    assert (found[1] == 0).all()


def test_no_rows_and_no_keys():
    q, k = torch.randn(B, H, T, K), torch.randn(B, G, S, K)
    assert attention_weights(q, k, torch.zeros(B, H, T), torch.empty(0, dtype=torch.int64)).shape == (B, H, 0, S)
    assert attention_weights(q, k[:, :, :0], torch.zeros(B, H, T), torch.tensor([2])).shape == (B, H, 1, 0)
    assert attention_weights(q, k[:, :, :0], torch.zeros(B, H, T)).shape == (B, H, T, 0)


@pytest.mark.parametrize("row", [-1, T])
def test_rows_out_of_range(row: int):
    q, k = torch.randn(B, H, T, K), torch.randn(B, G, S, K)
    with pytest.raises(ValueError, match=rf"rows must be in 0..8, got \[0, {row}\]"):
        attention_weights(q, k, torch.zeros(B, H, T), torch.tensor([0, row]))
