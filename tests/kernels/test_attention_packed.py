"""A packed batch is its sequences, one by one: output, log-sum-exp and gradients, with empty sequences on either side."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from minitrans_kernels import BlockLayout, RelativeBias, attention, attention_varlen, dropout_mask
from minitrans_kernels.attention.reference import reference_attention
from torch import Tensor

H, G, K = 4, 2, 16
LENGTHS = {
    "alike": ((4, 2, 7), (4, 2, 7)),
    "empty sequences": ((0, 3, 0, 5, 0), (2, 3, 0, 0, 0)),
    "cross": ((1, 6, 3), (5, 2, 9)),
    "one": ((6,), (6,)),
    "no tokens": ((0, 0), (0, 0)),
    "no keys": ((2, 1), (0, 0)),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "window, global tokens": {"window": (1, 2), "global_tokens": True},
    "blocks, causal": {"causal": True, "block_layout": 2},
    "blocks of each sequence": {"block_layout": (2,), "window": (3, 3)},
    "bias": {"bias": (1, H)},
    "bias for each sequence": {"bias": (0, 1), "softcap": 3.0},
    "T5": {"relative_bias": True, "scale": 1.0},
    "ALiBi, causal T5": {"alibi_slopes": True, "relative_bias": False, "causal": True},
    "dropout": {"dropout_p": 0.4},
    "everything": {
        "causal": True, "window": (4, 1), "global_tokens": True, "block_layout": 3, "bias": (0, H), "relative_bias": True,
        "alibi_slopes": True, "softcap": 2.0, "scale": 0.5, "dropout_p": 0.2,
    },
}  # fmt: skip


def boundaries(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("spare", [0, 3])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_equals_its_sequences(lengths: str, options: str, spare: int):
    """`spare`: how much further than the longest sequence the maxima reach."""
    torch.manual_seed(0)
    given = dict(OPTIONS[options])
    queries, keys = LENGTHS[lengths]
    batch, longest_q, longest_k = len(queries), max(queries) + spare, max(keys) + spare
    starts_q, starts_k = boundaries(queries), boundaries(keys)
    q, k, v = randn(sum(queries), H, K), randn(sum(keys), G, K), randn(sum(keys), G, K)
    leaves = [q, k, v]
    if "bias" in given:
        given["bias"] = randn(given["bias"][0] or batch, given["bias"][1], longest_q, longest_k)
        leaves.append(given["bias"])
    if "relative_bias" in given:
        given["relative_bias"] = RelativeBias(randn(8, H), given["relative_bias"], 11)
        leaves.append(given["relative_bias"].table)
    if "alibi_slopes" in given:
        given["alibi_slopes"] = randn(H)
        leaves.append(given["alibi_slopes"])
    if "global_tokens" in given:
        given["global_tokens"] = torch.rand(sum(keys)) > 0.7
    if "block_layout" in given:
        of_each = isinstance(given["block_layout"], tuple)
        size = given["block_layout"][0] if of_each else given["block_layout"]
        shape = (*((batch, 1) if of_each else (H,)), -(-longest_q // size), -(-longest_k // size))
        given["block_layout"] = BlockLayout(torch.rand(shape) > 0.4, size)
    packed = dict(given, dropout_seed=5) if "dropout_p" in given else given
    out, lse = attention_varlen(q, k, v, starts_q, starts_k, longest_q, longest_k, return_lse=True, **packed)

    expected = []
    for b in range(batch):
        own_q, own_k = (slice(int(starts[b]), int(starts[b + 1])) for starts in (starts_q, starts_k))
        told = dict(given)
        if "bias" in given:
            per_sequence = given["bias"].shape[0] > 1
            told["bias"] = given["bias"][b * per_sequence][None, :, : queries[b], : keys[b]]
        if "block_layout" in given and given["block_layout"].allowed.dim() == 4:
            told["block_layout"] = (given["block_layout"].allowed[b : b + 1], given["block_layout"].size)
        if "global_tokens" in given:
            told["global_tokens"] = given["global_tokens"][None, own_k]
        if "dropout_p" in given:
            told["kept"] = dropout_mask((batch, H, longest_q, longest_k), 0.4 if "window" not in given else 0.2, 5)[
                b : b + 1, :, : queries[b], : keys[b]
            ]
        parts = (tensor.transpose(0, 1)[None] for tensor in (q[own_q], k[own_k], v[own_k]))
        expected.append([x[0].transpose(0, 1) for x in reference_attention(*parts, **told)[:2]])
    wanted_out, wanted_lse = (torch.cat([pair[which] for pair in expected]) for which in (0, 1))
    torch.testing.assert_close(out, wanted_out)
    torch.testing.assert_close(lse, wanted_lse)

    grad_out, grad_lse = torch.randn_like(out), torch.randn_like(lse)
    found, wanted = (
        torch.autograd.grad((x * grad_out).sum() + (y.masked_fill(y == -torch.inf, 0.0) * grad_lse).sum(), leaves, materialize_grads=True)
        for x, y in ((out, lse), (wanted_out, wanted_lse))
    )  # fmt: skip
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_drops_what_the_padded_batch_drops():
    torch.manual_seed(0)
    lengths = (5, 2, 7)
    starts = boundaries(lengths)
    packed = [torch.randn(14, heads, K) for heads in (H, G, G)]
    padded = [torch.zeros(3, heads, 7, K) for heads in (H, G, G)]
    real = torch.zeros(3, 7, dtype=torch.bool)
    for b, length in enumerate(lengths):
        real[b, :length] = True
        for source, target in zip(packed, padded, strict=True):
            target[b, :, :length] = source[starts[b] : starts[b + 1]].transpose(0, 1)
    out = attention_varlen(*packed, starts, starts, 7, 7, dropout_p=0.5, dropout_seed=9)
    rectangle = attention(*padded, key_padding=real, dropout_p=0.5, dropout_seed=9)
    torch.testing.assert_close(rectangle.transpose(1, 2)[real], out)
    without = attention_varlen(*packed, starts, starts, 7, 7)
    assert not torch.allclose(out, without)


@pytest.mark.parametrize(
    ("starts", "longest", "message"),
    [
        ([1, 3, 5], 3, r"cu_seqlens_q must begin with 0, never fall, and end with 5 tokens, got \[1, 3, 5\]"),
        ([0, 4, 3, 5], 4, "cu_seqlens_q must begin with 0, never fall"),
        ([0, 3, 4], 3, "and end with 5 tokens"),
        ([0, 4, 5], 3, "max_seqlen_q must be at least 4, the longest length, got 3"),
    ],
)
def test_boundaries_that_do_not_fit(starts: list[int], longest: int, message: str):
    x = torch.randn(5, H, K)
    cu_seqlens = torch.tensor(starts, dtype=torch.int32)
    with pytest.raises(ValueError, match=message):
        attention_varlen(x, x, x, cu_seqlens, cu_seqlens, longest, 5)
