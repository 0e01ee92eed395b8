"""The order in which a training sees its examples: which of them make a step, and which part of a step runs where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from minitrans.training.objective import seed_from

Step = list[int]  # numbers of examples


@dataclass(frozen=True)
class Order:
    """Every example once an epoch, in steps of so many rows or tokens, those of a step about as long as each other.

    An epoch's steps follow from the seed and the number of the epoch alone: a training that was cut off goes on from
    (epoch, step), and on how many ranks or in how many micro-batches a step runs does not change which examples it has.

    Attributes:
        lengths: of every example how many tokens it has.
        seed: of the shuffle.
        rows: examples of a step; None where tokens are counted.
        tokens: of a step, at most; padding counts, up to the longest, unless it is `unpadded`.
        unpadded: whether batches run without their padding.
        pool: how many steps' examples are sorted by length together before they are cut into steps; 1 = the steps of a plain
            shuffle.
        shuffle: whether to; without it examples come as they are, unsorted.

    Raises:
        ValueError: where there are no examples, neither or both of rows and tokens, fewer examples than one step's rows, or an
            example that is longer than a step.
    """

    lengths: Sequence[int]
    seed: int = 0
    rows: int | None = None
    tokens: int | None = None
    unpadded: bool = False
    pool: int = 50
    shuffle: bool = True

    def __post_init__(self) -> None:
        if not len(self.lengths):
            raise ValueError("there is nothing to order: the data set is empty")
        if (self.rows is None) == (self.tokens is None):
            raise ValueError(f"give a step's rows or its tokens, got rows={self.rows} and tokens={self.tokens}")
        size = self.tokens if self.rows is None else self.rows
        if size is None or size < 1 or self.pool < 1:
            raise ValueError(f"a step and its pool need at least 1, got {size} and {self.pool}")
        if self.rows is not None and self.rows > len(self.lengths):
            raise ValueError(
                f"a step of {self.rows} rows is more than the data set has: {len(self.lengths)} examples; lower batch_size"
            )
        longest = max(range(len(self.lengths)), key=self.lengths.__getitem__)
        if self.tokens is not None and self.lengths[longest] > self.tokens:
            found = f"example {longest} has {self.lengths[longest]} tokens, a step at most {self.tokens}"
            raise ValueError(f"{found}: cut examples with max_length, or raise the tokens of a step")

    def steps(self, epoch: int) -> list[Step]:
        """Those of an epoch, counted from 0."""
        numbers = list(range(len(self.lengths)))
        if not self.shuffle:
            return self._cut(numbers, self.rows, self.tokens, self.unpadded)
        generator = torch.Generator().manual_seed(seed_from(self.seed, epoch))
        numbers = torch.randperm(len(numbers), generator=generator).tolist()
        if self.pool > 1:
            numbers = [number for pool in self._pools(numbers) for number in sorted(pool, key=self.lengths.__getitem__)]
        steps = self._cut(numbers, self.rows, self.tokens, self.unpadded)
        return [steps[place] for place in torch.randperm(len(steps), generator=generator).tolist()]

    def walk(self, epoch: int = 0, step: int = 0) -> Iterator[tuple[int, int, Step]]:
        """(epoch, step, examples) from a place on, without end."""
        while True:
            yield from ((epoch, at, found) for at, found in enumerate(self.steps(epoch)) if at >= step)
            epoch, step = epoch + 1, 0

    def parts(self, step: Step, ranks: int = 1, micro_batches: int = 1) -> list[list[Step]]:
        """Of every rank its micro-batches, about as long as those that the others run at the same time.

        With fewer examples than micro-batches some are empty: their ranks have nothing to add to the step.
        """
        longest_first, count = sorted(step, key=self.lengths.__getitem__, reverse=True), ranks * micro_batches
        ends = [len(step) * at // count for at in range(count + 1)]
        cut = [longest_first[start:end] for start, end in pairwise(ends)]
        return [cut[rank::ranks] for rank in range(ranks)]

    def _pools(self, numbers: Sequence[int]) -> list[Step]:
        """So many steps' examples each, as they come."""
        rows, tokens = (None if limit is None else limit * self.pool for limit in (self.rows, self.tokens))
        return self._cut(numbers, rows, tokens, unpadded=True)

    def _cut(self, numbers: Sequence[int], rows: int | None, tokens: int | None, unpadded: bool) -> list[Step]:
        """Examples, one after another, within one of the limits."""
        found: list[Step] = []
        longest = total = 0
        for number in numbers:
            length, count = self.lengths[number], len(found[-1]) + 1 if found else 0
            longest, total = max(longest, length), total + length
            size = total if unpadded else count * longest
            if not found or (rows is not None and count > rows) or (tokens is not None and size > tokens):
                found.append([])
                longest = total = length
            found[-1].append(number)
        return found
