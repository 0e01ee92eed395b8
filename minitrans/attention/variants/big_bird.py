"""BigBird: blocks see their neighbours, the first and last block, and some at random (Zaheer et al. 2020). O(n b (r + 5) K)."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans.attention.pattern import Allows, Pattern
from minitrans.attention.variant import CallSizes, Identity, LayerSizes


class BigBird(Pattern):
    """A window of three blocks, two global blocks, and for each block and head `random` more.

    The random blocks are no state: each pair of blocks has a number hashed from the seed, the layer, the head and the
    pair, and a block sees those of the lowest numbers. So they are the same in every call, however long the batch is.

    Args:
        sizes: of the block.
        block: tokens of a block.
        random: how many random blocks a block of queries sees.
        seed: of the random blocks.
    """

    name = "big_bird"
    trial = {"block": 1, "random": 1}
    identity = Identity({"block": 2, "random": 10**6})
    heads_differ = True
    whole_texts = True  # which block is the last

    def __init__(self, sizes: LayerSizes, *, block: int = 64, random: int = 3, seed: int = 0) -> None:
        super().__init__(sizes)
        if not isinstance(block, int) or block < 1 or not isinstance(random, int) or random < 0:
            raise ValueError(f"expected a block of at least 1 and random of at least 0, got {block!r}, {random!r}")
        self.block, self.random, self.seed = block, random, seed

    def pattern(self, sizes: CallSizes, lengths: Tensor) -> Allows:
        """Looks into a table of blocks."""
        table = self.table(-(-max(sizes.queries, sizes.keys) // self.block), lengths)  # (B, H, blocks, blocks)
        last = table.shape[-1] - 1

        def allows(b: Tensor, h: Tensor, i: Tensor, j: Tensor, n: Tensor) -> Tensor:
            return table[b, h, (i // self.block).clamp(0, last), (j // self.block).clamp(0, last)]

        return allows

    def table(self, count: int, lengths: Tensor) -> Tensor:
        """(B, H, count, count) bool: which block of queries sees which block of keys, in sequences of these lengths."""
        at = torch.arange(count, device=lengths.device)
        ends = ((lengths - 1) // self.block)[:, None, None, None]  # the last real block
        rows, columns = at[:, None], at[None, :]
        near = ((rows - columns).abs() <= 1) | (rows == 0) | (columns == 0) | (rows == ends) | (columns == ends)
        near = near.expand(-1, self.sizes.heads, -1, -1)
        if not self.random:
            return near
        h = torch.arange(self.sizes.heads, device=lengths.device)[:, None, None]
        numbers = _hash(((self.seed * 1009 + self.sizes.layer) * 1009 + h) * 65537 + rows, columns)
        numbers = numbers.expand(len(lengths), -1, -1, -1).masked_fill(
            near | (columns > ends), torch.iinfo(torch.int64).max
        )
        rank = numbers.argsort(dim=-1, stable=True).argsort(dim=-1)
        return near | (rank < self.random)


def _hash(one: Tensor, other: Tensor) -> Tensor:
    """A number below 2^31 for each pair, without pattern (the finaliser of MurmurHash3, in 31 bits)."""
    x = ((one & 0x7FFFFFFF) * 0x1E3779B1 + other * 0x05EBCA6B + 0x27D4EB2F) & 0x7FFFFFFF
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) & 0x7FFFFFFF
    return x ^ (x >> 16)
