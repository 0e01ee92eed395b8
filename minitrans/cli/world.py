"""Which part of the work is this process's: RANK and WORLD_SIZE of the environment, as torchrun sets them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from minitrans.files import printable

MAX_SIZE = 100_000


@dataclass(frozen=True)
class World:
    """Process `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @property
    def shared(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    def owns(self, number: int) -> bool:
        """Whether window `number` is this process's."""
        return number % self.size == self.rank


def world_from_environment() -> World:
    """Raises ValueError for numbers that do not fit."""
    size = _number("WORLD_SIZE", 1, 1, MAX_SIZE)
    return World(_number("RANK", 0, 0, size - 1), size)


def device_of(device: str, world: World) -> str:
    """ "cuda" of several processes on one machine is a card for each."""
    if device != "cuda" or not world.shared or "LOCAL_RANK" not in os.environ:
        return device
    return f"cuda:{_number('LOCAL_RANK', 0, 0, world.size - 1)}"


def _number(name: str, usual: int, least: int, most: int) -> int:
    text = os.environ.get(name, str(usual))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise ValueError(
            f"{name}: expected a number from {least} to {most} in the environment, found {printable(text)!r}"
        )
    return int(text)
