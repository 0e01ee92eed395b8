"""Tiles small enough that small problems have several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from minitrans_kernels import use_tiles

from tests.kernels.interpreter.cases import Tiles


@pytest.fixture
def tiles() -> Iterator[Tiles]:
    """`tiles(block_m, block_n)`: what passes run with from then on; those of which nothing else is said."""
    with ExitStack() as stack:

        def chosen(block_m: int, block_n: int, **others: tuple[int, ...]) -> None:
            tile = (block_m, block_n, 4, 2)
            stack.enter_context(use_tiles(forward=tile, grad_query=tile, grad_key_value=tile, **others))

        yield chosen
