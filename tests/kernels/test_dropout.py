"""The dropout mask: the documented hash, the probability asked for, and nothing left of the structure it is made from.

The statistical tests have fixed seeds, so they give the same answer for ever; each bound is what chance exceeds once in a
million draws of the seed.
"""

from __future__ import annotations

import math

import pytest
import torch
from minitrans_kernels.dropout import dropout_mask, threshold
from scipy.stats import chi2
from torch import Tensor

RARE = 1e-6
WORD = (1 << 64) - 1


def splitmix(start: int, index: int) -> int:
    """Number `index` of the SplitMix64 sequence from `start`, in Python's integers."""
    state = (start + (index + 1) * 0x9E3779B97F4A7C15) & WORD
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & WORD
    return state ^ (state >> 31)


def kept(seed: int, stream: int, row: int, column: int, p: float) -> bool:
    """One element of the mask, in Python's integers."""
    row_key = splitmix(splitmix(seed & WORD, 2 * stream), row) >> 32
    column_key = splitmix(splitmix(seed & WORD, 2 * stream + 1), column) >> 32
    mixed = ((row_key ^ column_key) * 0x21F0AAAD) % (1 << 32)
    mixed = ((mixed ^ (mixed >> 15)) * 0xD35A2D97) % (1 << 32)
    return mixed >= round(p * (1 << 32))


def within_chance(statistic: float, freedom: int) -> bool:
    return statistic <= chi2.ppf(1 - RARE, freedom)


def dropped(shape: tuple[int, ...], p: float, seed: int) -> Tensor:
    """Dropped elements as float64, centred and scaled to mean 0 and variance 1."""
    return ((~dropout_mask(shape, p, seed)).double() - p) / math.sqrt(p * (1 - p))


def test_splitmix_is_the_published_one():
    # the first numbers of java.util.SplittableRandom's algorithm from 1234567, as commonly published
    assert [splitmix(1234567, index) for index in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.97])
def test_every_bit_is_the_documented_function(seed: int, p: float):
    mask = dropout_mask((2, 3, 5, 7), p, seed)
    expected = [
        [[[kept(seed, 3 * b + h, i, j, p) for j in range(7)] for i in range(5)] for h in range(3)] for b in range(2)
    ]
    assert mask.tolist() == expected


def test_a_matrix_is_stream_zero():
    assert torch.equal(dropout_mask((9, 11), 0.3, 4), dropout_mask((2, 2, 9, 11), 0.3, 4)[0, 0])


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 2, 3, 4), (2, 2, 0, 4)])
def test_empty_shapes(shape: tuple[int, ...]):
    assert dropout_mask(shape, 0.5, 1).shape == shape


def test_a_sequence_keeps_its_mask_whatever_surrounds_it():
    whole = dropout_mask((3, 2, 40, 50), 0.4, 77)
    for batch, rows, columns in [(1, 1, 1), (2, 17, 50), (3, 40, 3)]:
        assert torch.equal(dropout_mask((batch, 2, rows, columns), 0.4, 77), whole[:batch, :, :rows, :columns])


def test_seed_as_tensor_and_as_number():
    expected = dropout_mask((4, 8), 0.5, 123)
    assert torch.equal(dropout_mask((4, 8), 0.5, torch.tensor([123])), expected)
    assert torch.equal(dropout_mask((4, 8), 0.5, torch.tensor(123)), expected)


def test_device():
    assert dropout_mask((2, 3), 0.5, 1, device="meta").device.type == "meta"
    assert dropout_mask((2, 3), 0.5, torch.zeros(1, dtype=torch.int64, device="meta")).device.type == "meta"


def test_compiles_whole_with_dynamic_shapes():
    def masked(x: Tensor, seed: Tensor) -> Tensor:
        return x * dropout_mask(tuple(x.shape), 0.25, seed)

    compiled = torch.compile(masked, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows, seed in [(5, 1), (6, 2), (9, 2)]:
        x = torch.ones(2, 3, rows, 8)
        assert torch.equal(compiled(x, torch.tensor([seed])), masked(x, torch.tensor([seed])))


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (0.0, 0),
        (2.0**-34, 0),
        (2.0**-32, 1),
        (0.5, 1 << 31),
        (1 - 2.0**-32, (1 << 32) - 1),
        (1 - 2.0**-50, (1 << 32) - 1),
    ],
)
def test_threshold(p: float, expected: int):
    assert threshold(p) == expected


def test_nothing_is_dropped_at_zero():
    assert dropout_mask((64, 64), 0.0, 5).all()


def test_errors():
    with pytest.raises(ValueError, match=r"probability must lie in \[0, 1\), got 1.0"):
        dropout_mask((2, 2), 1.0, 0)
    with pytest.raises(ValueError, match=r"probability must lie in \[0, 1\), got nan"):
        dropout_mask((2, 2), math.nan, 0)
    with pytest.raises(ValueError, match=r"\(B, H, T, S\) or \(rows, columns\), got \(2, 2, 2\)"):
        dropout_mask((2, 2, 2), 0.5, 0)
    with pytest.raises(ValueError, match=r"must be one number, got a tensor of shape \(2,\)"):
        dropout_mask((2, 2), 0.5, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"an int or an int64 tensor, got a tensor of torch.int32"):
        dropout_mask((2, 2), 0.5, torch.zeros(1, dtype=torch.int32))
    with pytest.raises(TypeError, match=r"an int or an int64 tensor, got float"):
        dropout_mask((2, 2), 0.5, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must lie in \[-2\*\*63, 2\*\*63\)"):
        dropout_mask((2, 2), 0.5, 1 << 63)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 20261122])
class TestChance:
    def test_fraction_kept(self, p: float, seed: int):
        mask = dropout_mask((2, 3, 256, 256), p, seed)
        deviation = mask.sum().item() - mask.numel() * (1 - p)
        assert within_chance(deviation**2 / (mask.numel() * p * (1 - p)), 1)

    def test_counts_of_rows_columns_and_streams(self, p: float, seed: int):
        x = dropped((2, 6, 192, 320), p, seed)
        for axes in [(3,), (2,), (2, 3), (0, 1, 3), (0, 1, 2)]:
            sums = x.sum(axes)
            assert within_chance(sums.square().sum().item() * sums.numel() / x.numel(), sums.numel())

    def test_pairs_of_rows_and_of_columns(self, p: float, seed: int):
        """An element's hash sees rows r, r' only through r ^ c, r' ^ c: each pair must still look independent."""
        x = dropped((1, 1, 512, 512), p, seed)[0, 0]
        pairs = 512 * 511 // 2
        for matrix in (x, x.T):
            products = (matrix @ matrix.T).triu(1)  # each of variance 512
            assert within_chance(products.square().sum().item() / 512, pairs)
            assert products.abs().max().item() <= 512  # half of what two equal rows give

    def test_neighbours(self, p: float, seed: int):
        x = dropped((2, 6, 128, 128), p, seed)
        for lag in (1, 2, 3, 4, 8, 16, 32, 64):
            for shifted in (x[..., lag:] * x[..., :-lag], x[:, :, lag:] * x[:, :, :-lag]):
                assert within_chance(shifted.sum().item() ** 2 / shifted.numel(), 1)

    def test_minors(self, p: float, seed: int):
        """In a 2x2 minor the exclusive or of the four r ^ c is zero: the number dropped must still be binomial."""
        mask = ~dropout_mask((1, 1, 1024, 1024), p, seed)[0, 0]
        counts = mask.view(512, 2, 512, 2).sum((1, 3)).flatten().bincount(minlength=5)
        chances = torch.tensor([math.comb(4, n) * p**n * (1 - p) ** (4 - n) for n in range(5)], dtype=torch.float64)
        expected = chances * 512 * 512
        merged = expected >= 5  # the usual rule for the chi-square approximation; rarer counts are one class
        observed = torch.cat([counts[merged], counts[~merged].sum()[None]]).double()
        expected = torch.cat([expected[merged], expected[~merged].sum()[None]]).clamp_min(1e-9)
        classes = int(merged.sum()) + int(not merged.all())
        assert within_chance(((observed - expected).square() / expected).sum().item(), classes - 1)
        signs = dropped((1, 1, 1024, 1024), p, seed)[0, 0].view(512, 2, 512, 2).prod(3).prod(1)
        assert within_chance(signs.sum().item() ** 2 / signs.numel(), 1)

    def test_streams(self, p: float, seed: int):
        x = dropped((4, 8, 64, 64), p, seed).view(32, -1)
        products = (x @ x.T).triu(1)
        assert within_chance(products.square().sum().item() / x.shape[1], 32 * 31 // 2)

    def test_neighbouring_seeds(self, p: float, seed: int):
        seeds = [seed + n for n in range(16)] + [seed ^ (1 << bit) for bit in range(5, 63)]
        x = torch.stack([dropped((1, 2, 48, 48), p, n).flatten() for n in seeds])
        products = (x @ x.T).triu(1)
        assert within_chance(products.square().sum().item() / x.shape[1], len(seeds) * (len(seeds) - 1) // 2)
