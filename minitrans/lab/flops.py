"""Operations counted: those of products of matrices, in which a multiplication and an addition are two."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from minitrans.errors import NotSupportedError


def counted(attentions: Iterable[Any], run: Callable[[], object]) -> float:
    """What `run` takes; in these attentions softmax by the equation: of fused kernels torch does not count all."""
    kept = [(block, block.backend) for block in attentions]
    for block, _ in kept:
        with suppress(NotSupportedError):  # a mechanism has no backends
            block.set_backend("eager")
    with FlopCounterMode(display=False) as counter:
        run()
    for block, backend in kept:
        block.set_backend(backend)
    return float(counter.get_total_flops())
