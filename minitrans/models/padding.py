"""Leaving padding out: between a padded batch (B, T, ...) and its real tokens laid end to end (N, ...), and when to do so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minitrans.attention.layout import PackedLayout
from minitrans.attention.recording import being_exported
from minitrans.errors import NotSupportedError

MODES = ("auto", "keep", "remove")
# Padding tokens times width: below, a MiniLM saves less than 20 ms on two CPU cores, and "auto" leaves a small batch as it is.
WORTH_IT = 2**16


@dataclass(frozen=True, eq=False)
class Packing:
    """Which cells of a (B, T) grid hold the tokens of a packed batch.

    Attributes:
        layout: where each row's tokens lie in the packed batch.
        cells: (N) int64, the place b * T + t of each token in the flattened grid, rising.
        shape: (B, T).
    """

    layout: PackedLayout
    cells: Tensor
    shape: tuple[int, int]

    @classmethod
    def of_mask(cls, real: Tensor) -> Packing:
        """The packing of a padded batch whose tokens are where `real` (B, T) is True."""
        lengths = real.sum(dim=1).tolist()
        layout = PackedLayout.from_lengths(lengths, real.device)
        return cls(layout, real.flatten().nonzero().squeeze(1), (real.shape[0], real.shape[1]))

    @classmethod
    def of_layout(cls, layout: PackedLayout) -> Packing:
        """The packing whose padded batch would have every sequence at the left of its row."""
        refuse_export()
        lengths, longest = layout.lengths(), max(layout.max_seqlen, 1)
        device = layout.cu_seqlens.device
        columns = torch.arange(longest, device=device)
        real = columns < torch.tensor(lengths, device=device)[:, None]  # (B, T)
        return cls(layout, real.flatten().nonzero().squeeze(1), (len(lengths), longest))

    def pack(self, padded: Tensor) -> Tensor:
        """(B, T, ...) -> (N, ...)."""
        return padded.reshape(-1, *padded.shape[2:])[self.cells]

    def unpack(self, packed: Tensor, fill: float = 0) -> Tensor:
        """(N, ...) -> (B, T, ...), with `fill` at padding."""
        batch, length = self.shape
        grid = packed.new_full((batch * length, *packed.shape[1:]), fill)
        return grid.index_copy_(0, self.cells, packed).view(batch, length, *packed.shape[1:])

    def unpack_given(self, given: Tensor | None, fill: int = 0) -> Tensor | None:
        """What a user gave for the N tokens, as (B, T, ...). Raises ValueError for another number of them."""
        if given is None:
            return None
        if given.shape[:1] != self.cells.shape:
            raise ValueError(f"with a layout of {len(self.cells)} tokens the inputs are (N), got {tuple(given.shape)}")
        return self.unpack(given, fill)


def check_mode(mode: str) -> None:
    """Raises ValueError for anything but "auto", "keep" and "remove"."""
    if mode not in MODES:
        raise ValueError(f"padding must be one of {', '.join(map(repr, MODES))}, got {mode!r}")


def choose_packing(mode: str, real: Tensor | None, *, width: int, obstacles: Callable[[], list[str]]) -> Packing | None:
    """How to leave out the padding of a batch, or None to compute it along.

    "auto" removes padding from inference on a CPU where enough of it can be saved (the door asks for it only there: a training
    run keeps it, so that losses over labelled padding stay those of the reference, B5).

    Args:
        mode: "auto", "keep" or "remove".
        real: (B, T) bool, the tokens; None = there is no padding.
        width: D.
        obstacles: what of the call only a padded run gives.

    Raises:
        NotSupportedError: for "remove" with something that needs the padding, or tokens that do not stand side by side.
    """
    if mode == "keep" or real is None:
        return None
    if mode == "remove":
        refuse_export()
        refuse_obstacles("padding='remove' does not go with", obstacles(), "use padding='keep'")
        if not is_contiguous(real):
            raise NotSupportedError("padding='remove' needs rows of the mask without holes; use padding='keep'")
        return Packing.of_mask(real)
    if real.device.type != "cpu":
        return None
    saved = (real.numel() - int(real.sum())) * width
    return Packing.of_mask(real) if saved >= WORTH_IT and is_contiguous(real) and not obstacles() else None


def refuse_export() -> None:
    """Raises NotSupportedError while lengths would become constants."""
    if being_exported():
        raise NotSupportedError("a batch without padding cannot be traced or exported; use padding='keep'")


def refuse_obstacles(what: str, obstacles: list[str], hint: str) -> None:
    """Raises NotSupportedError if there are any."""
    if obstacles:
        raise NotSupportedError(f"{what} {', '.join(obstacles)}; {hint}")


def is_contiguous(real: Tensor) -> bool:
    """Whether the tokens of each row of `real` (B, T) stand side by side, so that packing keeps the distances between them."""
    begins = real & ~torch.nn.functional.pad(real, (1, 0))[:, :-1]
    return bool((begins.sum(dim=1) <= 1).all())
