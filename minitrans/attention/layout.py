"""Sequences of different lengths laid end to end, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PackedLayout:
    """Where each sequence of a packed batch begins and ends; its tensors are (N, H, K) instead of (B, H, T, K).

    Attributes:
        cu_seqlens: (B + 1) int32, cumulative lengths: sequence b is tokens cu_seqlens[b] .. cu_seqlens[b + 1] - 1.
        max_seqlen: the longest length, known on the host so that no kernel launch has to ask the device.
    """

    cu_seqlens: Tensor
    max_seqlen: int

    def __post_init__(self) -> None:
        if self.cu_seqlens.dtype != torch.int32 or self.cu_seqlens.dim() != 1 or len(self.cu_seqlens) < 1:
            got = f"{tuple(self.cu_seqlens.shape)} {self.cu_seqlens.dtype}"
            raise ValueError(f"cu_seqlens must be a (B + 1) int32 tensor, got {got}")
        if self.cu_seqlens.device.type == "cpu":  # on another device looking would wait for it
            lengths, longest = self.lengths(), max(self.lengths(), default=0)
            if self.cu_seqlens[0] != 0 or min(lengths, default=0) < 0:
                raise ValueError(f"cu_seqlens must begin with 0 and never fall, got {self.cu_seqlens.tolist()}")
            if self.max_seqlen != longest:
                raise ValueError(f"max_seqlen must be {longest}, the longest length, got {self.max_seqlen}")

    @classmethod
    def from_lengths(cls, lengths: Sequence[int], device: torch.device | str | None = None) -> PackedLayout:
        """The layout of sequences of these lengths. Raises ValueError on a negative length."""
        if any(length < 0 for length in lengths):
            raise ValueError(f"lengths must not be negative, got {list(lengths)}")
        ends = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0).to(torch.int32)
        return cls(ends.to(device), max(lengths, default=0))

    def lengths(self) -> list[int]:
        """The length of each sequence, on the host; the device is asked once per layout."""
        return list(self._lengths)

    def sequence_of_token(self) -> Tensor:
        """(N) int64: the number of the sequence that each token belongs to."""
        sequences = torch.arange(len(self.cu_seqlens) - 1, device=self.cu_seqlens.device)
        return torch.repeat_interleave(sequences, self.cu_seqlens.diff())

    def positions(self) -> Tensor:
        """(N) int64: the position of each token in its sequence."""
        starts = self.cu_seqlens[:-1].repeat_interleave(self.cu_seqlens.diff())
        return torch.arange(len(starts), device=starts.device) - starts

    def same_sequence(self) -> Tensor:
        """(1, 1, N, N) bool: whether two tokens belong to the same sequence."""
        sequence = self.sequence_of_token()
        return (sequence[:, None] == sequence[None, :])[None, None]

    @cached_property
    def _lengths(self) -> tuple[int, ...]:
        return tuple(self.cu_seqlens.diff().tolist())
