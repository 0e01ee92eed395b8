"""Patterns and biases of positions pair by pair, against what their papers say, and modules of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from minitrans.attention import AttentionMask, CallSizes, LayerSizes, PackedLayout
from minitrans.attention.specs import build_variants
from minitrans.attention.variants.big_bird import BigBird

H, K, N = 4, 8, 11
SIZES = LayerSizes(H * K, H, H, K, layer=1, longest=32)


def restricted(spec: Any, mask: AttentionMask | None = None, batch: int = 1, **sizes: Any) -> Any:
    (variant,) = build_variants(spec, SIZES)
    return variant.double().restrict(
        mask or AttentionMask(), None, CallSizes(batch, N, N, H, torch.device("cpu"), **sizes)
    )


# name -> what one pair may do, written down from the paper
BY_HAND: dict[str, tuple[dict[str, Any], Callable[[int, int, int], bool]]] = {
    "strided": ({"stride": 3}, lambda i, j, n: -3 < i - j < 3 or (i - j) % 3 == 0),
    "dilated": ({"window": 4, "dilation": 2}, lambda i, j, n: i - j in (-4, -2, 0, 2, 4)),
    "cls_global": ({"window": 2, "tokens": 2}, lambda i, j, n: i in (0, 1) or j in (0, 1) or abs(i - j) <= 1),
    "window_sinks": ({"window": 2, "tokens": 2}, lambda i, j, n: j in (0, 1) or abs(i - j) <= 1),
    "prefix": ({"prefix": 3}, lambda i, j, n: j <= i or j in (0, 1, 2)),
    "blocks": ({"size": 3, "neighbours": 1}, lambda i, j, n: j // 3 in (i // 3 - 1, i // 3, i // 3 + 1)),
    "big_bird": (
        {"block": 2, "random": 0},
        lambda i, j, n: abs(i // 2 - j // 2) <= 1 or {0, (n - 1) // 2} & {i // 2, j // 2} != set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_pair_by_pair_between_padding(name: str) -> None:
    """Places count from the first real token to the last."""
    options, allows = BY_HAND[name]
    real = torch.tensor([[True] * N, [False] * 2 + [True] * 7 + [False] * 2])
    mask, bias = restricted({"name": name, **options}, AttentionMask(key_padding=real), 2)
    assert bias is None
    found = mask.to_dense(N, N, torch.device("cpu"))
    for b, (first, n) in enumerate([(0, N), (2, 7)]):
        for i in range(n):
            expected = [allows(i, j, n) for j in range(n)]
            assert found[b, 0, first + i, first : first + n].tolist() == expected, (b, i)
        assert not found[b][..., ~real[b]].any()


def test_random_blocks_of_big_bird() -> None:
    variant = BigBird(SIZES, block=1, random=2, seed=7)
    tables = {n: variant.table(n, torch.tensor([n])) for n in (8, 40)}
    plain = {n: BigBird(SIZES, block=1, random=0).table(n, torch.tensor([n])) for n in tables}
    extra = (tables[40] & ~plain[40])[0]
    assert (extra.sum(-1)[:, 2:-2] == 2).all()  # each block sees two more, each head others
    assert (extra[0] != extra[1]).any()
    assert torch.equal(variant.table(40, torch.tensor([40])), tables[40])
    assert not torch.equal(BigBird(SIZES, block=1, random=2, seed=8).table(40, torch.tensor([40])), tables[40])
    # in a longer batch a text has the blocks it has alone, and none beyond its end
    padded = variant.table(40, torch.tensor([8, 40]))
    assert torch.equal(padded[0, :, :8, :8], tables[8][0])
    assert not (padded[0, :, 1:7, 8:]).any()
    share = extra.float().mean((0, 1))  # no block is everybody's choice
    assert share.max() < 5 * share.mean()


def test_documents_begin_where_positions_do() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2, 3, 4, 0], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]])
    text = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 3], [0] * N])
    same = text[:, None, :, None] == text[:, None, None, :]
    mask, _ = restricted("document", batch=2, positions=positions)
    assert torch.equal(mask.to_dense(N, N, torch.device("cpu")), same)
    layout = PackedLayout.from_lengths([N, N])
    mask, _ = restricted("document", layout=layout, positions=positions.flatten())
    packed = mask.to_dense(2 * N, 2 * N, torch.device("cpu"), layout)[0, 0]
    assert torch.equal(packed, torch.block_diag(same[0, 0], same[1, 0]).bool())


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (4, 7), (7, 4)])
@pytest.mark.parametrize("name", ["shaw", "transformer_xl"])
@torch.no_grad()
def test_products_with_positions_pair_by_pair(name: str, queries: int, keys: int) -> None:
    (variant,) = build_variants({"name": "shaw", "reach": 2} if name == "shaw" else name, SIZES)
    variant.double()
    for parameter in variant.parameters():
        parameter.normal_()
    _, bias = variant.restrict(AttentionMask(), None, CallSizes(2, queries, keys, H, torch.device("cpu")))
    query, key = draw(2, H, queries, K), draw(2, 2, keys, K)
    found = bias.to_dense(query, key, 0.3)
    for b in range(2):
        for h in range(H):
            for i in range(queries):
                for j in range(keys):
                    behind = i + keys - queries - j
                    q, k = query[b, h, i], key[b, h // 2, j]
                    if name == "shaw":
                        score = q @ variant.vectors[min(max(-behind, -2), 2) + 2]
                    else:
                        half = H * K // 2
                        rates = [behind / 10000 ** (n / half) for n in range(half)]
                        r = torch.tensor(
                            [math.sin(a) for a in rates] + [math.cos(a) for a in rates], dtype=torch.float64
                        )
                        score = variant.content[h] @ k + (q + variant.position[h]) @ (variant.weight[h] @ r)
                    torch.testing.assert_close(found[b, h, i, j], 0.3 * score, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("buckets", [-1, 4])
@torch.no_grad()
def test_disentangled_is_that_of_deberta(buckets: int) -> None:
    from transformers import DebertaV2Config
    from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

    from minitrans.attention import Context
    from minitrans.layers.multi_head_attention import MultiHeadAttention

    torch.manual_seed(0)
    config = DebertaV2Config(
        hidden_size=H * K, num_attention_heads=H, relative_attention=True, pos_att_type=["c2p", "p2c"], share_att_key=True,
        position_buckets=buckets, max_relative_positions=9, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0,
    )  # fmt: skip
    theirs = DisentangledSelfAttention(config).double().eval()
    reach = buckets if buckets > 0 else 9
    embeddings, x = draw(2 * reach, H * K), draw(2, N, H * K)
    scale = 1 / float(torch.tensor(3.0 * K).sqrt())  # theirs is a float32
    ours = MultiHeadAttention(H * K, H, scale=scale).double()
    ours.set_attention({"name": "disentangled", "reach": reach, "max_distance": 9 if buckets > 0 else None})
    for mine, other in ((ours.query, theirs.query_proj), (ours.key, theirs.key_proj), (ours.value, theirs.value_proj)):
        mine.load_state_dict(other.state_dict())
    ours.output.weight.copy_(torch.eye(H * K))
    ours.output.bias.zero_()
    for table, projection in (("key_table", theirs.key_proj), ("query_table", theirs.query_proj)):
        ours.variants[0].get_parameter(table).copy_(projection(embeddings).view(2 * reach, H, K).transpose(0, 1))
    expected = theirs(x, torch.ones(2, 1, N, N), rel_embeddings=embeddings)
    torch.testing.assert_close(ours(x, Context()).output, expected[0], rtol=1e-10, atol=1e-10)
