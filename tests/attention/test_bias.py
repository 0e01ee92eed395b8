"""Biases against the numbers of their papers, the reference's code, and loops."""

from __future__ import annotations

import pytest
import torch

from minitrans.attention import ALiBi, AttentionBias, DenseBias, PackedLayout, RelativeBuckets, RelativePositions
from minitrans.attention.packed import dense_bias
from minitrans.testing.naive import bias_of_pair

B, H, G, T, S, K = 2, 6, 3, 4, 7, 5
query, key = torch.randn(B, H, T, K, dtype=torch.float64), torch.randn(B, G, S, K, dtype=torch.float64)
table = torch.randn(2 * 9 - 1, K, dtype=torch.float64)

BIASES: list[AttentionBias] = [
    DenseBias(torch.randn(B, 1, T, S, dtype=torch.float64)),
    DenseBias(torch.randn(1, H, T, S, dtype=torch.float64)),
    ALiBi(torch.rand(H, dtype=torch.float64)),
    RelativeBuckets(torch.randn(8, H, dtype=torch.float64), max_distance=11),
    RelativeBuckets(torch.randn(6, H, dtype=torch.float64), bidirectional=False, max_distance=5),
    RelativePositions(table),
    RelativePositions(table, with_key=True),
]


@pytest.mark.parametrize("bias", BIASES, ids=lambda bias: type(bias).__name__)
@pytest.mark.parametrize("turned", [False, True], ids=["T<S", "T>S"])
def test_to_dense_is_the_bias_of_each_pair(bias: AttentionBias, turned: bool) -> None:
    q, k = query, key
    if turned:
        if isinstance(bias, DenseBias):
            pytest.skip("a dense bias has one shape")
        q, k = torch.randn(B, H, S, K, dtype=torch.float64), torch.randn(B, G, T, K, dtype=torch.float64)
    dense = bias.to_dense(q, k, 0.3).expand(B, H, q.shape[2], k.shape[2])
    for b in range(B):
        for h in range(H):
            for i in range(q.shape[2]):
                for j in range(k.shape[2]):
                    offset = k.shape[2] - q.shape[2]
                    expected = bias_of_pair(bias, q[b, h, i], k[b, h // 2, j], (b, h, i, j), offset, 0.3)
                    torch.testing.assert_close(dense[b, h, i, j], expected, rtol=1e-12, atol=1e-12)


def test_alibi_slopes_are_the_papers() -> None:
    eight = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert ALiBi.default_slopes(8).tolist() == eight
    # 12 heads: those of 8, then every other one of those of 16
    torch.testing.assert_close(
        ALiBi.default_slopes(12), torch.tensor([*eight, 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]), rtol=1e-7, atol=0
    )
    torch.testing.assert_close(ALiBi.default_slopes(16), torch.tensor([2 ** (-h / 2) for h in range(1, 17)]))
    assert ALiBi.default_slopes(1).tolist() == [2**-8]


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("count", "max_distance"), [(32, 128), (32, 64), (8, 20), (64, 256), (320, 800)])
def test_t5_buckets_are_the_references(bidirectional: bool, count: int, max_distance: int) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-1500, 1501)
    expected = T5Attention._relative_position_bucket(distances, bidirectional, count, max_distance)
    bias = RelativeBuckets(torch.zeros(count, 3), bidirectional, max_distance)
    assert torch.equal(bias.buckets(distances), expected)


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (DenseBias(torch.zeros(3, 1, T, S)), r"B=2, H=6, T=4, S=7, got \(3, 1, 4, 7\)"),
        (DenseBias(torch.zeros(1, 3, T, S)), r"got \(1, 3, 4, 7\)"),
        (DenseBias(torch.zeros(1, 1, 1, S)), r"got \(1, 1, 1, 7\)"),
        (ALiBi(torch.zeros(3)), r"ALiBi needs one slope a head, H=6, got shape \(3,\)"),
        (RelativeBuckets(torch.zeros(32, 3)), r"RelativeBuckets needs a \(buckets, H=6\) table, got \(32, 3\)"),
        (RelativePositions(torch.zeros(17, 4)), r"RelativePositions needs a \(2P - 1, K=5\) table, got \(17, 4\)"),
        (RelativePositions(torch.zeros(11, 5)), "relative positions reach 6 tokens, got 7"),
    ],
)
def test_biases_that_do_not_fit_are_refused(bias: AttentionBias, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bias.to_dense(query, key, 1.0)


@pytest.mark.parametrize("values", [torch.ones(1, 1, 4, 7, dtype=torch.bool), torch.zeros(4, 7)])
def test_a_dense_bias_is_floating_and_has_four_dimensions(values: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="a bool tensor is a mask"):
        DenseBias(values)


def test_the_dense_bias_of_a_packed_batch_is_that_of_each_sequence() -> None:
    layout = PackedLayout.from_lengths([3, 0, 5])
    q, k = torch.randn(1, H, 8, K), torch.randn(1, G, 8, K)
    bias = RelativePositions(torch.randn(2 * 5 - 1, K))  # reaches the longest sequence, not the whole batch
    found = dense_bias(bias, q, k, 0.5, layout)
    expected = torch.zeros(1, H, 8, 8)
    expected[..., :3, :3] = bias.to_dense(q[:, :, :3], k[:, :, :3], 0.5)
    expected[..., 3:, 3:] = bias.to_dense(q[:, :, 3:], k[:, :, 3:], 0.5)
    assert torch.equal(found, expected)
