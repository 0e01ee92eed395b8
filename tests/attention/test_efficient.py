"""Mechanisms that see fewer pairs, or none, against plain formulas and modules of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from minitrans.attention import AttentionMask, AttentionRules, Context, LayerSizes
from minitrans.attention.layout import PackedLayout
from minitrans.attention.specs import build_variants
from minitrans.errors import NotSupportedError
from minitrans.layers.multi_head_attention import MultiHeadAttention

B, H, T, K = 2, 4, 8, 8
REAL = torch.tensor([[True] * T, [True] * 5 + [False] * 3])
SIZES = LayerSizes(H * K, H, H, K, longest=16)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(4)
    return tuple(torch.randn(B, H, T, K, dtype=torch.float64) for _ in range(3))  # type: ignore[return-value]


def moved(spec: Any) -> Any:
    (variant,) = build_variants(spec, SIZES)
    variant.double().requires_grad_(False)
    torch.manual_seed(6)
    for parameter in variant.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return variant


def softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    total = sum(math.exp(s - top) for s in scores)
    return [math.exp(s - top) / total for s in scores]


Weight = Callable[[Any, int, Tensor, Tensor, int, int], float]
# name -> phi(q_i)·phi(k_j) for one pair, of vectors already times K^(-1/4)
KERNELS: dict[str, Weight] = {
    "linear": lambda v, h, q, k, i, j: sum((a + 1 if a > 0 else math.exp(a)) * (b + 1 if b > 0 else math.exp(b)) for a, b in zip(q.tolist(), k.tolist(), strict=True)),
    "taylor": lambda v, h, q, k, i, j: 1 + float(q @ k) + float(q @ k) ** 2 / 2,
    "cosformer": lambda v, h, q, k, i, j: float(q.clamp(min=0) @ k.clamp(min=0)) * math.cos(math.pi / 2 * (i - j) / 16),
    "hedgehog": lambda v, h, q, k, i, j: sum(
        a * b for sign in (1, -1)
        for a, b in zip(softmax((sign * v.query_map[h] @ q).tolist()), softmax((sign * v.key_map[h] @ k).tolist()), strict=True)
    ),
    "t2r": lambda v, h, q, k, i, j: float(
        (v.query_map[h] @ q + v.query_bias[h, 0]).clamp(min=0) @ (v.key_map[h] @ k + v.key_bias[h, 0]).clamp(min=0)
    ),
    "performer": lambda v, h, q, k, i, j: sum(math.exp(float(w @ q + w @ k - (q @ q + k @ k) / 2)) for w in v.vectors),
}  # fmt: skip


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", KERNELS)
def test_features_pair_by_pair(name: str, causal: bool) -> None:
    variant = moved({"name": name, "features": 24} if name == "performer" else name)
    query, key, value = inputs()
    found = variant.compute(query, key, value, AttentionRules(AttentionMask(REAL, causal=causal))).output
    for b in range(B):
        for h in range(H):
            for i in range(int(REAL[b].sum())):
                seen = [j for j in range(T) if REAL[b, j] and (j <= i or not causal)]
                weights = [
                    KERNELS[name](variant, h, query[b, h, i] * K**-0.25, key[b, h, j] * K**-0.25, i, j) for j in seen
                ]
                mean = torch.tensor(weights, dtype=torch.float64) @ value[b, h, seen] / (sum(weights) or 1.0)
                torch.testing.assert_close(found[b, h, i], mean, rtol=1e-9, atol=1e-9)


def test_vectors_of_performer_are_orthogonal_and_drawn_by_seed() -> None:
    (variant,) = build_variants({"name": "performer", "features": 2 * K}, SIZES)
    one, other = variant.vectors.double().split(K)
    for block in (one, other):
        products = block @ block.T
        torch.testing.assert_close(products, torch.diag(products.diagonal()), rtol=0, atol=1e-5)
    (again,) = build_variants({"name": "performer", "features": 2 * K}, SIZES)
    assert torch.equal(again.vectors, variant.vectors)
    again.redraw(1)
    assert not torch.equal(again.vectors, variant.vectors)
    # the mean of a direction is nothing: without the signs of a decomposition it would be more
    (many,) = build_variants({"name": "performer", "features": 4000 * K}, SIZES)
    assert many.vectors.mean(0).abs().max() < 6 * (4000 * K) ** -0.5
    assert many.vectors[::K].mean(0).abs().max() < 6 * 4000**-0.5


def deviation(query: Tensor, key: Tensor, count: int) -> Tensor:
    """(..., T, S): of phi(q)·phi(k) / exp(q·k) with independent vectors (Choromanski et al. 2021, lemma 2)."""
    return ((torch.exp((query[..., :, None, :] + key[..., None, :, :]).square().sum(-1)) - 1) / count).sqrt()


def test_products_of_random_features_have_the_mean_and_the_variance_of_the_paper() -> None:
    """Orthogonal vectors have less of it than independent ones (theorem 2), by less than half for so short q and k."""
    count, draws = 16, 2000
    (variant,) = build_variants({"name": "performer", "features": count}, SIZES)
    variant.double()
    query, key = (0.35 * x[0, 0] for x in inputs()[:2])
    ratios = []
    for seed in range(draws):
        variant.redraw(seed)
        exponents = query @ variant.vectors.T - query.square().sum(-1, keepdim=True) / 2
        scaled = exponents.amax(dim=-1, keepdim=True).exp()  # the factor that a row is divided by again
        products = scaled * (
            variant.features(query, torch.arange(T), False) @ variant.features(key, torch.arange(T), True).mT
        )
        ratios.append(products / torch.exp(query @ key.mT))
    found, sigma = torch.stack(ratios), deviation(query, key, count)
    assert ((found.mean(0) - 1).abs() < 6 * sigma * draws**-0.5).all()
    share = ((found - 1).square().mean(0) / sigma.square()).mean()
    assert 0.5 < share < 1.05


@pytest.mark.parametrize("count", [1000, 100_000])
def test_random_features_are_as_near_to_softmax_as_their_variance_says(count: int) -> None:
    """Relative errors e_j of the products move an output o by sum of p_j e_j (v_j - o), to the first order in e.

    The e_j of one query share their vectors, so deviations add up at worst; six of them are allowed. On the numbers of
    `test_rows.py`, with 100,000 features and through the output's projection, this deviation is 0.027 at most, and 0.0066 if
    errors of different numbers are independent: 4.5 of the latter are the tolerance of the row's identity, 3e-2.
    """
    query, key, value = inputs()
    query, key = query / 2, key / 2  # of longer ones the errors are no longer small, and their distribution is all tail
    (variant,) = build_variants({"name": "performer", "features": count}, SIZES)
    found = variant.double().compute(query, key, value, AttentionRules()).output
    weights = torch.softmax(query @ key.mT * K**-0.5, dim=-1)
    exact = weights @ value
    sigma = deviation(query * K**-0.25, key * K**-0.25, count)
    bound = torch.einsum("bhts,bhts,bhtsk->bhtk", weights, sigma, (value[:, :, None] - exact[:, :, :, None]).abs())
    error = (found - exact).abs()
    assert (error < 6 * bound).all()
    assert error.mean() > 0.05 * bound.mean()  # it is no exact attention


def test_a_long_causal_text_goes_chunk_by_chunk() -> None:
    variant = moved("linear")
    query, key, value = (torch.randn(1, H, 150, K, dtype=torch.float64) for _ in range(3))
    mask = AttentionMask(causal=True)
    found = variant.compute(query, key, value, AttentionRules(mask)).output
    pairs = variant.compute(query, key, value, AttentionRules(mask, need_weights=True)).output
    torch.testing.assert_close(found, pairs, rtol=1e-10, atol=1e-12)


def attended(query: Tensor, keys: Tensor, values: Tensor, plus: Tensor | float = 0.0) -> Tensor:
    return torch.softmax(query @ keys.T * K**-0.5 + plus, dim=-1) @ values


def test_landmarks_are_means_of_segments() -> None:
    query, key, value = inputs()
    found = (
        moved({"name": "landmarks", "landmarks": 3})
        .compute(query, key, value, AttentionRules(AttentionMask(REAL)))
        .output
    )
    for b, cuts in enumerate(([3, 3, 2], [2, 2, 1])):
        for h in range(H):
            n = sum(cuts)
            keys, values = (torch.stack([part.mean(0) for part in x[b, h, :n].split(cuts)]) for x in (key, value))
            expected = attended(query[b, h, :n], keys, values, torch.tensor(cuts, dtype=torch.float64).log())
            torch.testing.assert_close(found[b, h, :n], expected, rtol=1e-10, atol=1e-10)


def test_linformer_projects_along_the_text() -> None:
    variant = moved({"name": "linformer", "rank": 3})
    query, key, value = inputs()
    found = variant.compute(query, key, value, AttentionRules(AttentionMask(REAL))).output
    for b, n in enumerate((T, 5)):
        for h in range(H):
            keys, values = (
                variant.key_projection[:, :n] @ key[b, h, :n],
                variant.value_projection[:, :n] @ value[b, h, :n],
            )
            torch.testing.assert_close(found[b, h, :n], attended(query[b, h, :n], keys, values), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["linformer", "synthesizer_random", "synthesizer_dense"])
def test_what_has_numbers_for_each_place_ends_with_them(name: str) -> None:
    module = MultiHeadAttention(H * K, H)
    module.set_attention(name, longest=T - 1)
    packed = Context(layout=PackedLayout.from_lengths([3, T]))
    for x, context in ((torch.randn(B, T, H * K), Context()), (torch.randn(3 + T, H * K), packed)):
        with pytest.raises(
            NotSupportedError, match=f"{name}' does not support texts of {T} tokens .* 7 of `longest`.$"
        ):
            module(x, context)
    assert module(torch.randn(B, T - 1, H * K), Context()).output.shape == (B, T - 1, H * K)


def copied(theirs: Any, names: tuple[str, ...], spec: Any, prefix: str = "") -> MultiHeadAttention:
    """Ours with their projections, and none at the end."""
    ours = MultiHeadAttention(H * K, H).double().requires_grad_(False)
    for mine, name in zip((ours.query, ours.key, ours.value), names, strict=True):
        mine.load_state_dict(getattr(theirs, name).state_dict())
    ours.output.weight.copy_(torch.eye(H * K))
    ours.output.bias.zero_()
    ours.set_attention(spec, longest=16)
    return ours.eval()


@torch.no_grad()
def test_nystromformer_is_that_of_transformers() -> None:
    from transformers import NystromformerConfig
    from transformers.models.nystromformer.modeling_nystromformer import NystromformerSelfAttention

    config = NystromformerConfig(
        hidden_size=H * K, num_attention_heads=H, num_landmarks=4, segment_means_seq_len=T, conv_kernel_size=3,
        attention_probs_dropout_prob=0.0, inv_n_iter=6, inv_init_coeff_option="exact",
    )  # fmt: skip
    theirs = NystromformerSelfAttention(config).double().eval()
    theirs.init_option = "exact"
    ours = copied(theirs, ("query", "key", "value"), {"name": "nystromformer", "landmarks": 4, "conv": 3})
    ours.variants[0].conv.copy_(theirs.conv.weight)
    x = torch.randn(B, T, H * K, dtype=torch.float64)
    torch.testing.assert_close(ours(x, Context()).output, theirs(x)[0], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_fnet_is_that_of_transformers() -> None:
    from transformers import FNetConfig
    from transformers.models.fnet.modeling_fnet import FNetBasicFourierTransform

    theirs = FNetBasicFourierTransform(FNetConfig(hidden_size=H * K, use_tpu_fourier_optimizations=False))
    ours = MultiHeadAttention(H * K, H).double()
    for projection in (ours.value, ours.output):
        projection.weight.copy_(torch.eye(H * K))
        projection.bias.zero_()
    ours.set_attention("fnet")
    x = torch.randn(B, T, H * K, dtype=torch.float64)
    torch.testing.assert_close(ours(x, Context()).output, theirs(x)[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("padding", [0, 3])
@torch.no_grad()
def test_longformer_is_that_of_transformers(padding: int) -> None:
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    torch.manual_seed(3)
    config = LongformerConfig(
        hidden_size=H * K, num_attention_heads=H, attention_window=[4], attention_probs_dropout_prob=0.0
    )
    theirs = LongformerSelfAttention(config, layer_id=0).double().eval()
    ours = copied(theirs, ("query", "key", "value"), {"name": "longformer", "window": 4})
    for name in ("query_global", "key_global", "value_global"):
        ours.variants[0].get_submodule(name).load_state_dict(
            getattr(theirs, name).state_dict(), strict=name != "key_global"
        )
    x = torch.randn(B, T, H * K, dtype=torch.float64)
    real = torch.arange(T).expand(B, -1) < T - padding
    tokens = torch.zeros(B, T, dtype=torch.bool)
    tokens[0, [0, 3]] = tokens[1, 1] = True
    states = torch.where(tokens, 10000.0, torch.where(real, 0.0, -10000.0)).double()
    expected = theirs(
        x, attention_mask=states, is_index_masked=states < 0, is_index_global_attn=tokens, is_global_attn=True
    )[0]
    found = ours(x, Context(AttentionMask(real, global_tokens=tokens))).output
    # their global softmax is float32 whatever the model is
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-6)


def scored(query: Tensor, key: Tensor) -> Tensor:
    return query @ key.mT * K**-0.5


@pytest.mark.parametrize("name", ["synthesizer_random", "synthesizer_dense"])
@pytest.mark.parametrize("alone", [False, True])
def test_synthesized_scores(name: str, alone: bool) -> None:
    variant = moved({"name": name, "alone": alone})
    query, key, value = inputs()
    found = variant.compute(query, key, value, AttentionRules(need_weights=True)).weights
    made = (
        variant.table[None, :, :T, :T]
        if name == "synthesizer_random"
        else torch.relu(query) @ variant.table[..., :T] * K**-0.5
    )
    expected = (made.expand(B, -1, -1, -1) + (0 if alone else scored(query, key))).softmax(-1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_best_blocks_row_by_row(causal: bool) -> None:
    query, key, value = inputs()
    rules = AttentionRules(AttentionMask(REAL, causal=causal), need_weights=True)
    found = moved({"name": "block_top_k", "k": 2, "size": 2}).compute(query, key, value, rules).weights
    for b in range(B):
        for h in range(H):
            for i in range(int(REAL[b].sum())):
                seen = [j for j in range(T) if REAL[b, j] and (j <= i or not causal)]
                blocks: dict[int, list[int]] = {}
                for j in seen:
                    blocks.setdefault(j // 2, []).append(j)
                gate = {
                    block: float(query[b, h, i] @ key[b, h, of].mean(0))
                    for block, of in blocks.items()
                    if block != i // 2
                }
                best = {i // 2, *sorted(gate, key=lambda block: -gate[block])[:1]}
                chosen = [j for j in seen if j // 2 in best]
                expected = torch.zeros(T, dtype=torch.float64)
                expected[chosen] = scored(query, key)[b, h, i, chosen].softmax(-1)
                torch.testing.assert_close(found[b, h, i], expected, rtol=1e-10, atol=1e-12)


def test_buckets_pair_by_pair() -> None:
    variant = moved({"name": "lsh", "buckets": 4, "rounds": 2})
    query, key, value = inputs()
    found = variant.compute(query, key, value, AttentionRules(need_weights=True)).weights

    def bucket(x: Tensor, rotation: Tensor) -> int:
        turned = (x @ rotation).tolist()
        both = turned + [-a for a in turned]
        return both.index(max(both))

    for b in range(B):
        for h in range(H):
            for i in range(T):
                chosen = [
                    j for j in range(T)
                    if i == j or any(bucket(query[b, h, i], r) == bucket(key[b, h, j], r) for r in variant.rotations)
                ]  # fmt: skip
                expected = torch.zeros(T, dtype=torch.float64)
                expected[chosen] = scored(query, key)[b, h, i, chosen].softmax(-1)
                torch.testing.assert_close(found[b, h, i], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_scores_mixed_with_near_ones(causal: bool) -> None:
    variant = moved({"name": "multi_token", "queries": 3, "keys": 3})
    query, key, value = inputs()
    found = variant.compute(
        query, key, value, AttentionRules(AttentionMask(REAL, causal=causal), need_weights=True)
    ).weights
    scores = scored(query, key)
    for b in range(B):
        n = int(REAL[b].sum())
        for h in range(H):
            for i in range(n):
                mixed = []
                for j in range(i + 1 if causal else n):
                    total = 0.0
                    for back in range(3):
                        for side in (-1, 0, 1):
                            row, column = i - back, j + side
                            if row >= 0 and 0 <= column < n and (column <= row or not causal):
                                total += float(variant.kernel[h, 0, 2 - back, 1 + side] * scores[b, h, row, column])
                    mixed.append(total)
                torch.testing.assert_close(found[b, h, i, : len(mixed)].tolist(), softmax(mixed), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("causal", [False, True])
def test_channels_have_weights_of_their_own(causal: bool) -> None:
    variant = moved({"name": "aft", "reach": 2})
    query, key, value = inputs()
    found = variant.compute(query, key, value, AttentionRules(AttentionMask(REAL, causal=causal))).output
    for b in range(B):
        for h in range(H):
            for i in range(int(REAL[b].sum())):
                seen = [j for j in range(T) if REAL[b, j] and (j <= i or not causal)]
                near = torch.stack([variant.by_distance[h, min(max(j - i, -2), 2) + 2] for j in seen])
                weights = torch.exp(key[b, h, seen] + near[:, None])
                expected = torch.sigmoid(query[b, h, i]) * (weights * value[b, h, seen]).sum(0) / weights.sum(0)
                torch.testing.assert_close(found[b, h, i], expected, rtol=1e-10, atol=1e-12)
