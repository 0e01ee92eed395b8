"""What `flex` tells torch of a mask: the blocks that no pair needs, which on the CPU nothing looks at."""

from __future__ import annotations

import torch

from minitrans.attention.flex import _block_mask
from minitrans.attention.mask import AttentionMask, MaskRule


def test_a_rule_that_tells_heads_and_samples_apart_has_blocks_for_each() -> None:
    query = torch.zeros(2, 3, 256, 8)
    block = MaskRule(lambda b, h, i, j: (i // 128 + j // 128 + h + b) % 2 == 0, batch=2, heads=3)
    for rule, shape in ((block, (2, 3)), (MaskRule(block.allows, heads=3), (1, 3)), (MaskRule(block.allows), (1, 1))):
        mask = _block_mask(AttentionMask(rule=rule), query, query, None)
        assert mask is not None
        assert mask.shape == (*shape, 256, 256)
        b, h = (torch.arange(count) for count in shape)
        even = (b[:, None] + h) % 2 == 0
        blocks = torch.where(even[..., None, None], torch.eye(2), 1 - torch.eye(2))
        assert torch.equal(mask.to_dense().to(blocks), blocks)
