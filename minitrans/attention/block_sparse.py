"""Attention by blocks as BigBird's models were trained with it (Zaheer et al. 2020): neighbours, the ends, and some at random.

Their random blocks are drawn by numpy's generator, and counted twice where they are seen already: so this is their own
attention, beside the pattern `variants.big_bird`, which does neither.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minitrans.attention.bias import DenseBias, summed
from minitrans.attention.dispatch import attend
from minitrans.attention.mask import BlockLayout
from minitrans.attention.recording import being_traced
from minitrans.attention.rules import AttentionResult, AttentionRules
from minitrans.attention.variant import LayerSizes, Variant
from minitrans.errors import NotSupportedError

PLANNED = (1024, 3072, 4096)  # lengths of the pre-training, whose random blocks are drawn in another way (BB2)
FARTHEST = 1024  # token of those texts up to which the blocks are drawn


class BlockSparseAttention(Variant):
    """Attention of blocks of queries to some blocks of keys; of all to all in texts of at most 5 + 2 r blocks (BB1).

    A block that is drawn though it is seen already counts so often in the softmax: the first one 1 + r times outside of training,
    where it is what is drawn. Blocks are those of the batch, padding included: no batch can be packed. Nothing is remembered.

    Args:
        sizes: of the block.
        block: tokens of a block.
        random: r.
    """

    name = "big_bird"
    whole_texts = True

    def __init__(self, sizes: LayerSizes, *, block: int, random: int) -> None:
        super().__init__(sizes)
        self.block, self.random = block, random

    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """(B, H, T, K)."""
        length, short = query.shape[2], (5 + 2 * self.random) * self.block
        if being_traced() and (self.sizes.longest or 0) > short:
            raise NotSupportedError(
                f"texts of more than {short} tokens are seen in blocks, which a trace would not know: use torch.export, or "
                "attention_type='original_full'"
            )
        if length <= short:
            return attend(query, key, value, rules)
        counts = self.counts(length).to(query.device)  # (H|1, blocks, blocks)
        of = torch.arange(length, device=query.device) // self.block
        often = DenseBias(counts.clamp(min=1).to(query.dtype).log()[:, of[:, None], of][None])  # (1, H|1, T, T)
        mask = replace(rules.mask, blocks=BlockLayout(counts > 0, self.block))
        # BB3: there is no dropout
        result = attend(query, key, value, replace(rules, mask=mask, bias=summed(rules.bias, often), dropout_p=0.0))
        if mask.key_padding is None:
            return result
        return replace(result, output=result.output.masked_fill(~mask.key_padding[:, None, :, None], 0.0))

    def counts(self, length: int) -> Tensor:
        """(H|1, blocks, blocks): how often a block of queries sees a block of keys."""
        blocks = -(-length // self.block)
        at = torch.arange(blocks)
        ends, near = (at == 0) | (at == blocks - 1), (at[:, None] - at).abs() <= 1
        counts = (near | ends[:, None] | ends).long()[None]
        if not self.training or not self.random:
            counts[:, 1:-1, 0] += self.random
            return counts
        if blocks * self.block in PLANNED:
            whole = (self.sizes.longest or 0) // self.block  # blocks of the longest text
            last = (FARTHEST // self.block if 2 * self.block < FARTHEST else whole) - 1
            drawn = _planned(self.sizes.layer, self.sizes.heads, whole, self.random, last)
        else:
            drawn = _drawn(self.sizes.layer, self.sizes.heads, blocks, self.random)
        chosen = torch.from_numpy(drawn)[:, : blocks - 2]  # (H, blocks - 2, r)
        counts = counts.repeat(len(chosen), 1, 1)
        counts[:, 1:-1].scatter_add_(2, chosen, torch.ones_like(chosen))
        return counts

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """Padded batches without a mask of pairs."""
        lacking = {
            "packed batches": rules.layout is not None, "the logsumexp": rules.need_logsumexp,
            "another mask of blocks": rules.mask.blocks is not None,
        }  # fmt: skip
        return next((name for name, asked in lacking.items() if asked), None)


@lru_cache(maxsize=256)
def _drawn(seed: int, heads: int, blocks: int, random: int) -> np.ndarray[Any, Any]:
    """(H, blocks - 2, r): of the first 5 + 2 r blocks those that an inner block sees besides, drawn by the layer (BB2)."""
    generator, far = np.random.RandomState(seed), 5 + 2 * random
    drawn = np.zeros((heads, blocks, random), dtype=np.int64)
    for row in range(1, blocks):
        seen = (
            {row - 1, row, row + 1, 0, far - 1}
            | ({far - 2} if row == 1 else set())
            | ({1} if row == far - 2 else set())
        )
        for head in range(heads):
            drawn[head, row] = [block for block in generator.permutation(far) if block not in seen][:random]
    return drawn[:, 1:-1]


@lru_cache(maxsize=256)
def _planned(seed: int, heads: int, blocks: int, random: int, last: int) -> np.ndarray[Any, Any]:
    """The same where texts are as long as in the pre-training: drawn for the longest text, up to a block (BB2)."""
    generator, middle = np.random.RandomState(seed), np.arange(1, blocks - 1)
    drawn = np.zeros((heads, blocks - 2, random), dtype=np.int64)
    for head in range(heads):
        for row in range(1, blocks - 1):
            before, after = middle[: row - 2], middle[row + 1 : last]
            if row <= 2:
                choice = middle[row + 1 : last]
            elif row >= blocks - 3 or row - 2 > last:
                choice = middle[:last]
            elif row + 1 == last:
                choice = before
            else:
                choice = np.concatenate((before, after))
            drawn[head, row - 1] = generator.permutation(choice)[:random]
    return drawn
