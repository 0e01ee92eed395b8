"""A tile that no kernel can be compiled for is named with its row, before anything is launched."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from minitrans_kernels import use_tiles
from minitrans_kernels.attention import configs
from minitrans_kernels.attention.configs import Configuration
from minitrans_kernels.runtime import ARCHITECTURES


@pytest.fixture
def fresh() -> Iterator[None]:
    configs.look_up.cache_clear()
    yield
    configs.look_up.cache_clear()


def test_every_row_is_sound():
    for arch, which, kind in configs._TABLE:
        for width in configs.WIDTHS:
            assert arch in ARCHITECTURES
            assert configs.look_up(arch, which, kind, width)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("tile", "message"),
    [
        ((24, 64, 4, 3), "block_m must be a power of two of at least 16, got 24"),
        ((64, 8, 4, 3), "block_n must be a power of two of at least 16, got 8"),
        ((64, 64, 3, 3), "warps must be a power of two of at least 1, got 3"),
        ((64, 64, 4, 0), "stages must be at least 1, got 0"),
    ],
)
def test_a_tile_that_cannot_be(monkeypatch: pytest.MonkeyPatch, tile: tuple[int, ...], message: str):
    monkeypatch.setitem(configs._TABLE, ("sm_90", "forward", "plain"), (Configuration(*tile),) * 4)
    row = r"row \('sm_90', 'forward', 'plain'\), head widths up to 64: "
    with pytest.raises(ValueError, match=row + message):
        configs.look_up("sm_90", "forward", "plain", 64)
    with pytest.raises(ValueError, match=r"use_tiles\(grad_query=...\): " + message), use_tiles(grad_query=tile):
        pass
    assert not configs._TRIED


def test_a_pass_that_is_not():
    expected = "expected passes of forward, grad_query, .*, got 'grad_value'"
    with pytest.raises(ValueError, match=expected), use_tiles(grad_value=(64, 64, 4, 3)):
        pass


def test_what_was_tried_before_comes_back():
    with use_tiles(forward=(16, 32, 4, 1)):
        with use_tiles(forward=(32, 32, 4, 1), grad_query=(16, 16, 4, 1)):
            assert configs._TRIED["forward"].block_m == 32
        with pytest.raises(KeyError), use_tiles(forward=(64, 32, 4, 1)):
            raise KeyError
        assert {"forward": Configuration(16, 32, 4, 1)} == configs._TRIED
    assert not configs._TRIED
