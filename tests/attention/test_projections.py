"""What happens to queries, keys and values before they meet, against weights and formulas that say the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minitrans import BertConfig, BertModel
from minitrans.attention import AttentionMask, Context, PackedLayout
from minitrans.layers.multi_head_attention import MultiHeadAttention

B, H, T, K = 2, 4, 6, 8
Make, Draw, Block = Callable[..., Any], Callable[..., Tensor], Callable[..., MultiHeadAttention]


def of_weights(module: MultiHeadAttention, change: Callable[[Tensor], Tensor]) -> MultiHeadAttention:
    """The same without variants, its key and value projections changed: rows (G K, D + 1) with the bias as last column."""
    plain = copy.deepcopy(module)
    plain.set_attention("full")
    for projection in (plain.key, plain.value):
        changed = change(torch.cat([projection.weight, projection.bias[:, None]], dim=1))
        projection.weight.copy_(changed[:, :-1])
        projection.bias.copy_(changed[:, -1])
    return plain


@pytest.mark.parametrize("groups", [1, 2])
@torch.no_grad()
def test_grouped_query_is_the_mean_of_the_weights(groups: int, block: Block, draw: Draw) -> None:
    module = block({"name": "grouped_query", "groups": groups})
    mean = of_weights(
        module,
        lambda w: (
            w.view(groups, H // groups, K, -1).mean(1, keepdim=True).expand(-1, H // groups, -1, -1).flatten(0, 2)
        ),
    )
    x = draw(B, T, H * K)
    torch.testing.assert_close(module(x, Context()).output, mean(x, Context()).output, rtol=1e-10, atol=1e-10)
    assert module.variants[0].project(*[draw(B, H, T, K)] * 3, Context())[1].shape == (B, groups, T, K)


@pytest.mark.parametrize("rank", [3, 17])
@torch.no_grad()
def test_multi_latent_is_the_truncated_decomposition_of_the_weights(rank: int, block: Block, draw: Draw) -> None:
    module = block("full")
    weight = torch.cat([module.key.weight, module.value.weight])
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    nearest = (u[:, :rank] * s[:rank]) @ v[:rank]
    low = copy.deepcopy(module)
    low.key.weight.copy_(nearest[: H * K])
    low.value.weight.copy_(nearest[H * K :])
    module.set_attention({"name": "multi_latent", "rank": rank})
    assert module.variants[0].down.shape == (rank, 2 * H * K)
    x = draw(B, T, H * K)
    torch.testing.assert_close(module(x, Context()).output, low(x, Context()).output, rtol=1e-9, atol=1e-10)


def small(layers: int = 3) -> BertModel:
    torch.manual_seed(2)
    sizes = {
        "vocab_size": 30,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "max_position_embeddings": 16,
    }
    return BertModel(BertConfig(num_hidden_layers=layers, initializer_range=0.3, **sizes)).double().eval()


@torch.no_grad()
def test_what_a_variant_begins_with_comes_from_the_file(tmp_path: Path) -> None:
    """Also where the swap happens while the weights are read; and what a file has of a variant stays."""
    model, spec, ids = small(), {"name": "multi_latent", "rank": 9}, torch.randint(1, 30, (2, 7))
    model.save_pretrained(tmp_path / "plain")
    loaded = BertModel.from_pretrained(tmp_path / "plain", attention=spec)
    assert len(loaded.load_report.fresh) == 9
    model.set_attention(spec)
    expected = model(ids, padding="keep").last_hidden_state
    torch.testing.assert_close(loaded(ids, padding="keep").last_hidden_state, expected, rtol=1e-10, atol=1e-10)
    for variant in (layer.attention.variants[0] for layer in model.encoder.layer):
        variant.up.mul_(0.5)
    model.save_pretrained(tmp_path / "healed")
    again = BertModel.from_pretrained(tmp_path / "healed")
    assert torch.equal(again.encoder.layer[1].attention.variants[0].up, model.encoder.layer[1].attention.variants[0].up)


@pytest.mark.parametrize("padding", ["keep", "remove"])
def test_values_of_the_first_layer_reach_the_others(padding: str) -> None:
    model = small()
    ids, real = torch.randint(1, 30, (2, 7)), torch.arange(7) < torch.tensor([[7], [4]])
    model.set_attention({"layers": {"1-": "value_residual"}})
    before = model(ids, real.long(), padding=padding).last_hidden_state.detach()
    values: list[Tensor] = []
    for layer in model.encoder.layer[1:]:
        layer.attention.value.register_forward_hook(lambda module, args, output: values.append(output))
    with torch.no_grad():
        model.encoder.layer[2].attention.variants[0].share.fill_(0.7)
    found = model(ids, real.long(), padding=padding).last_hidden_state
    assert (found - before).abs().max() > 1e-3
    # the same by hand: the second value projection gives what it gives, and 0.7 of the first
    model.set_attention("full")
    first, *_ = values
    model.encoder.layer[2].attention.value.register_forward_hook(lambda module, args, output: output + 0.7 * first)
    torch.testing.assert_close(
        model(ids, real.long(), padding=padding).last_hidden_state, found, rtol=1e-10, atol=1e-10
    )


@torch.no_grad()
def test_keys_and_values_shifted_one_by_one(make: Make, draw: Draw) -> None:
    variant = make("key_shift", heads=2)
    key, value = draw(B, 2, T, K), draw(B, 2, T, K)
    real = torch.tensor([[True] * T, [False, False, True, True, True, False]])
    found = variant.project(key, key, value, Context(AttentionMask(real)))
    layout = PackedLayout.from_lengths([T, 3])
    packed = [torch.cat([x[0].transpose(0, 1), x[1, :, 2:5].transpose(0, 1)]) for x in (key, value)]
    in_a_row = variant.project(packed[0], *packed, Context(layout=layout))
    for kind, given in enumerate((key, value)):
        for b in range(B):
            for h in range(2):
                for i in real[b].nonzero().flatten().tolist():
                    expected = variant.own[kind, h] * given[b, h, i]
                    if i > 0 and real[b, i - 1]:
                        expected = expected + variant.before[kind, h] * given[b, h, i - 1]
                    torch.testing.assert_close(found[1 + kind][b, h, i], expected, rtol=1e-12, atol=1e-12)
                    torch.testing.assert_close(
                        in_a_row[1 + kind][i if b == 0 else T + i - 2, h], expected, rtol=1e-12, atol=1e-12
                    )


@pytest.mark.parametrize("layout", ["halves", "interleaved"])
@torch.no_grad()
def test_xpos_decays_with_the_distance(layout: str, make: Make) -> None:
    variant = make({"name": "xpos", "span": 4.0, "layout": layout})
    query, key = torch.randn(K, dtype=torch.float64), torch.randn(K, dtype=torch.float64)
    positions = torch.tensor([[3, 9, 14]])
    same = [each.expand(1, 1, 3, K) for each in (query, key, key)]
    q, k, _ = variant.project(*same, Context(positions=positions))
    for a, i in enumerate(positions[0].tolist()):
        for b, j in enumerate(positions[0].tolist()):
            expected = 0.0
            for n in range(K // 2):
                one, other = (n, n + K // 2) if layout == "halves" else (2 * n, 2 * n + 1)
                turn = torch.tensor((i - j) * 10000.0 ** (-2 * n / K), dtype=torch.float64)
                zeta = ((2 * n / K + 0.4) / 1.4) ** ((i - j) / 4.0)
                dot, cross = (
                    query[one] * key[one] + query[other] * key[other],
                    query[one] * key[other] - query[other] * key[one],
                )
                expected = expected + zeta * (dot * turn.cos() + cross * turn.sin())
            torch.testing.assert_close(q[0, 0, a] @ k[0, 0, b], expected, rtol=1e-9, atol=1e-9)


def test_scalings_of_rotary(make: Make) -> None:
    positions = torch.tensor([[0, 6, 40]])
    like = torch.zeros(1, 1, 3, K, dtype=torch.float64)
    plain, linear, ntk = (
        make({"name": "rotary", **o})
        for o in ({}, {"scaling": "linear", "factor": 4.0}, {"scaling": "ntk", "factor": 4.0})
    )
    for ours, theirs in zip(linear.angles(positions, like), plain.angles(positions.double() / 4, like), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    slow, fast = ntk.angles(positions, like)[1].asin()[..., -1], ntk.angles(positions, like)[0][..., 0]
    torch.testing.assert_close(slow, plain.angles(positions, like)[1].asin()[..., -1] / 4, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(fast, plain.angles(positions, like)[0][..., 0], rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="scaling must be one of linear, ntk"):
        make({"name": "rotary", "scaling": "yarn"})
