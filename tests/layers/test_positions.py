"""Rule S7: the three layouts of sinusoids, against the reference and against the formula."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.distilbert.modeling_distilbert import create_sinusoidal_embeddings
from transformers.models.m2m_100.modeling_m2m_100 import M2M100SinusoidalPositionalEmbedding
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

from minitrans.layers.positions import SinusoidalPositions, sinusoidal_table

LAYOUTS = ("interleaved", "halves", "halves_offset")
WIDTHS = (2, 3, 8, 9, 64, 65)


@pytest.mark.parametrize("width", WIDTHS)
def test_interleaved_is_distilberts_bit_by_bit(width: int) -> None:
    expected = create_sinusoidal_embeddings(n_pos=130, dim=width, out=torch.empty(130, width))
    assert torch.equal(sinusoidal_table(130, width, "interleaved").float(), expected)


@pytest.mark.parametrize("width", WIDTHS)
def test_halves_is_marians_bit_by_bit(width: int) -> None:
    expected = MarianSinusoidalPositionalEmbedding(130, width).create_weight()
    assert torch.equal(sinusoidal_table(130, width, "halves").float(), expected)


@pytest.mark.parametrize("width", [4, 5, 8, 9, 64, 65])
def test_halves_offset_is_m2m100s(width: int) -> None:
    reference = M2M100SinusoidalPositionalEmbedding(130, width, padding_idx=1)
    ours = SinusoidalPositions(130, width, "halves_offset")
    # the reference takes the angles in float32: position · 2^-24 · (the rounding of exp, of log and of the product)
    assert (ours.table - reference.weights).abs().max() <= 132 * 4 * 2**-24
    ids = torch.tensor([[7, 3, 9, 1, 1], [5, 6, 7, 8, 9]])  # 1 is padding
    expected = reference(ids)
    positions = torch.tensor([[0, 1, 2, -1, -1], [0, 1, 2, 3, 4]])
    assert (ours(positions) - expected).abs().max() <= 7 * 4 * 2**-24
    assert ours(positions)[0, 3:].eq(0).all()


@pytest.mark.parametrize("width", [4, 7])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_formula_entry_by_entry(layout: Any, width: int) -> None:
    table = sinusoidal_table(9, width, layout)
    sines = width // 2 if layout == "halves_offset" else (width + 1) // 2
    for position in range(9):
        for column in range(width):
            if layout == "interleaved":
                pair, function = column // 2, math.cos if column % 2 else math.sin
            else:
                pair, function = column % sines, math.sin if column < sines else math.cos
            exponent = pair / (sines - 1) if layout == "halves_offset" else 2 * pair / width
            expected = function(position * 10000.0**-exponent)
            if layout == "halves_offset" and (position == 1 or column >= 2 * sines):
                expected = 0.0
            assert table[position, column].item() == pytest.approx(expected, abs=1e-14)


def test_the_layouts_differ() -> None:
    interleaved, halves, offset = (sinusoidal_table(9, 8, layout) for layout in LAYOUTS)  # type: ignore[arg-type]
    assert (interleaved - halves).abs().max() > 0.1
    assert (halves - offset)[2:].abs().max() > 0.01
    assert torch.equal(interleaved[:, 0::2], halves[:, :4])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_module_reads_rows(layout: Any) -> None:
    module = SinusoidalPositions(6, 4, layout)
    positions = torch.tensor([[5, 0, 3], [1, 1, 4]])
    offset = 2 if layout == "halves_offset" else 0
    table = sinusoidal_table(8, 4, layout).float()
    assert torch.equal(module(positions), table[positions + offset])
    assert module(positions).shape == (2, 3, 4)
    assert module(positions[:, :0]).shape == (2, 0, 4)
    assert not list(module.parameters())
    assert not module.state_dict()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_cast_rounds_the_exact_table(layout: Any) -> None:
    offset = 2 if layout == "halves_offset" else 0
    exact = sinusoidal_table(50 + offset, 8, layout)
    module = SinusoidalPositions(50, 8, layout)
    assert module.table.dtype == torch.float32
    for dtype in (torch.bfloat16, torch.float32, torch.float16, torch.float64):
        assert torch.equal(module.to(dtype).table, exact.to(dtype))
    torch.nn.Sequential(module.half()).double()
    assert torch.equal(module.table, exact)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin.table, exact)


def test_made_on_the_meta_device() -> None:
    with torch.device("meta"):
        module = SinusoidalPositions(6, 4)
    assert module.table.device.type == "meta"
    assert torch.equal(module.to_empty(device="cpu").table, sinusoidal_table(6, 4).float())


def test_dtype_is_the_default_one() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert SinusoidalPositions(6, 4).table.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("layout", "position", "span"),
    [
        ("interleaved", 6, r"\[0, 6\)"),
        ("halves", -1, r"\[0, 6\)"),
        ("halves_offset", 6, r"\[-1, 6\)"),
        ("halves_offset", -2, r"\[-1, 6\)"),
    ],
)
def test_positions_outside_the_table(layout: Any, position: int, span: str) -> None:
    with pytest.raises(ValueError, match=f"positions must be in {span}, .* got position {position}"):
        SinusoidalPositions(6, 4, layout)(torch.tensor([0, position]))


@pytest.mark.parametrize(
    ("sizes", "layout", "message"),
    [
        ((5, 4), "paper", "unknown sinusoid layout 'paper'; known: interleaved, halves, halves_offset"),
        ((0, 4), "interleaved", r"at least one position .* got \(0, 4\)"),
        ((5, 1), "halves", r"one pair of columns, got \(5, 1\)"),
        ((5, 3), "halves_offset", r"one pair of columns, got \(5, 3\)"),
    ],
)
def test_impossible_tables(sizes: tuple[int, int], layout: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sinusoidal_table(*sizes, layout)


def test_a_shift_is_a_rotation() -> None:
    """Section 3.5: for any k, the vector of position p + k is a linear function of that of position p."""
    table = sinusoidal_table(30, 6)

    def rotated(row: Tensor, k: int) -> Tensor:
        angle = k * 10000.0 ** (-torch.arange(0, 6, 2, dtype=torch.float64) / 6)
        sin, cos = row[0::2], row[1::2]
        return torch.stack([sin * angle.cos() + cos * angle.sin(), cos * angle.cos() - sin * angle.sin()], 1).flatten()

    for position, k in ((0, 5), (7, 13), (20, -9)):
        assert (rotated(table[position], k) - table[position + k]).abs().max() <= 1e-14
