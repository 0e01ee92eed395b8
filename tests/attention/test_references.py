"""Rows against modules of transformers where both define the same thing; where they do not, the docstring says how they part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from minitrans.attention import AttentionMask, Context, LayerSizes
from minitrans.attention.specs import build_variants
from minitrans.attention.variants.big_bird import BigBird
from minitrans.layers.multi_head_attention import MultiHeadAttention

B, H, T, K = 2, 4, 12, 8
D = H * K
Draw = Callable[..., Tensor]


def gradients(output: Tensor, real: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    factors = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view_as(output) * real[..., None]
    return torch.autograd.grad((output * factors).sum(), leaves)


@pytest.mark.parametrize("causal", [False, True])
def test_transformer_xl_is_that_of_xlnet(causal: bool, draw: Draw) -> None:
    """Without segments and memory. Their sinusoids are float32 whatever the model is: here both get those of float64."""
    from transformers import XLNetConfig, XLNetModel

    config = XLNetConfig(vocab_size=9, d_model=D, n_layer=1, n_head=H, d_inner=8, dropout=0.0, attn_type="bi")
    model = XLNetModel(config).double().train()
    theirs = model.layer[0].rel_attn
    for parameter in theirs.parameters():
        parameter.data.normal_(std=0.3)
    behind = torch.arange(T, -T, -1, dtype=torch.float64)
    angles = behind[:, None] * 10000.0 ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    sinusoids = torch.cat([angles.sin(), angles.cos()], dim=-1)
    single = model.relative_positional_encoding(T, T, bsz=B)
    torch.testing.assert_close(single.double(), sinusoids[:, None].expand(-1, B, -1), rtol=0, atol=1e-5)

    ours = MultiHeadAttention(D, H, bias=False).double()
    ours.set_attention("transformer_xl")
    variant: Any = ours.variants[0]
    with torch.no_grad():
        for name, short in (("query", "q"), ("key", "k"), ("value", "v")):
            getattr(ours, name).weight.copy_(getattr(theirs, short).flatten(1).T)
        ours.output.weight.copy_(theirs.o.flatten(1))
        variant.content.copy_(theirs.r_w_bias)
        variant.position.copy_(theirs.r_r_bias)
        variant.weight.copy_(theirs.r.permute(1, 2, 0))
    x, real = draw(B, T, D), torch.arange(T).expand(B, -1) < torch.tensor([[T], [T - 4]])
    hidden = ~real[:, None].expand(-1, T, -1)
    hidden = hidden | torch.ones(T, T, dtype=torch.bool).triu(1) if causal else hidden
    found = ours(x, Context(AttentionMask(real, causal=causal))).output
    found = theirs.layer_norm(x + found)
    expected = theirs(
        x.transpose(0, 1), None, hidden.permute(1, 2, 0)[..., None].double(), None,
        sinusoids[:, None].expand(-1, B, -1), None,
    )[0].transpose(0, 1)  # fmt: skip
    torch.testing.assert_close(found[real], expected[real], rtol=1e-10, atol=1e-10)
    mine = gradients(found, real, x, variant.content, variant.position, variant.weight)
    other = gradients(expected, real, x, theirs.r_w_bias, theirs.r_r_bias, theirs.r)
    for one, two in zip(mine, (*other[:3], other[3].permute(1, 2, 0)), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["linear", "dynamic"])
@torch.no_grad()
def test_longer_texts_turn_as_in_llama(kind: str, draw: Draw) -> None:
    """Their "dynamic" raises the base for each length, by factor · length / trained - (factor - 1): our `ntk` is fixed.

    So it is compared at one length, with that number for its factor. Their frequencies are float32.
    """
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    factor, trained, length = 4.0, 8, 20
    rope = {"rope_type": kind, "factor": factor, "rope_theta": 10000.0}
    config = LlamaConfig(hidden_size=D, num_attention_heads=H, max_position_embeddings=trained, rope_parameters=rope)
    query, key = draw(B, H, length, K), draw(B, H, length, K)
    positions = torch.arange(length).expand(B, -1)
    cos, sin = LlamaRotaryEmbedding(config)(query, positions)
    ours = {"linear": factor, "dynamic": factor * length / trained - (factor - 1)}[kind]
    scaling = {"linear": "linear", "dynamic": "ntk"}[kind]
    (rotary,) = build_variants({"name": "rotary", "scaling": scaling, "factor": ours}, LayerSizes(D, H, H, K))
    found = rotary.project(query, key, key, Context(positions=positions))[:2]
    plain = build_variants("rotary", LayerSizes(D, H, H, K))[0].project(query, key, key, Context(positions=positions))
    assert (found[0] - plain[0]).abs().max() > 0.1
    for mine, other in zip(found, apply_rotary_pos_emb(query, key, cos, sin), strict=True):
        # an angle of at most `length` radians, of a frequency that is rounded to 6e-8, and its sine, to 6e-8 again
        torch.testing.assert_close(mine, other, rtol=0, atol=3 * length * 6e-8 * query.abs().max().item())


class AsDrawn(BigBird):
    """With the random blocks of a list (H, blocks - 2, random), of the blocks between the first and the last."""

    chosen: Tensor

    def table(self, count: int, lengths: Tensor) -> Tensor:
        near = super().table(count, torch.full_like(lengths, count * self.block)).clone()
        for h in range(self.sizes.heads):
            for row, blocks in enumerate(self.chosen[h].tolist(), start=1):
                near[:, h, row, blocks] = True
        return near


@pytest.mark.parametrize("padding", [0, 3])
def test_big_bird_is_that_of_transformers(padding: int, draw: Draw) -> None:
    """With the random blocks that they draw in training; ours are hashed, and the same in evaluation, where theirs are all
    block 0, which is then counted twice. Their last block is that of the padded batch, ours that of the text."""
    from transformers import BigBirdConfig, BigBirdModel
    from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention

    block, random, length = 2, 1, 18
    config = BigBirdConfig(hidden_size=D, num_attention_heads=H, block_size=block, num_random_blocks=random)
    theirs = BigBirdBlockSparseAttention(config, seed=5).double().train()
    ours = MultiHeadAttention(D, H).double()
    variant = AsDrawn(LayerSizes(D, H, H, K), block=block, random=0)
    plan = theirs._get_rand_attn_plan(length, block, random)
    np.random.seed(5)
    variant.chosen = torch.tensor(
        np.stack(theirs._bigbird_block_rand_mask_with_head(length, length, block, block, H, *plan))
    )
    ours.set_attention(variant)
    with torch.no_grad():
        for name in ("query", "key", "value"):
            getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())
        ours.output.weight.copy_(torch.eye(D))
        ours.output.bias.zero_()
    assert len(variant.chosen.unique()) > 2
    x, real = draw(B, length, D), torch.ones(B, length, dtype=torch.bool)
    if padding:
        real[1, -padding:] = False
    blocked, band, queries, keys = BigBirdModel.create_masks_for_block_sparse_attn(real.double(), block)
    expected = theirs(x, band, queries, keys, blocked, blocked)[0]
    # of a text that ends early the last block is another for us: the mask is given, and the pattern is that of the batch
    found = ours(x, Context(AttentionMask(dense=real[:, None, None].expand(-1, 1, length, -1)))).output
    torch.testing.assert_close(found[real], expected[real], rtol=1e-10, atol=1e-10)
    weights = [(module.query.weight, module.value.weight) for module in (ours, theirs)]
    pairs = zip(gradients(found, real, x, *weights[0]), gradients(expected, real, x, *weights[1]), strict=True)
    for mine, other in pairs:
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_buckets_are_those_of_reformer(draw: Draw) -> None:
    """The hash alone: there keys are queries of unit length, a token does not see itself, chunks of the sorted tokens are
    attended whole, also across buckets, and a pair counts once for each round. Ours is equations 2 to 4 of the paper."""
    from transformers import ReformerConfig
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    buckets, rounds = 6, 3
    config = ReformerConfig(
        hidden_size=K, num_attention_heads=1, attention_head_size=K, num_buckets=buckets, num_hashes=rounds, hash_seed=4
    )
    theirs = LSHSelfAttention(config).double()
    options = {"name": "lsh", "buckets": buckets, "rounds": rounds}
    variant: Any = build_variants(options, LayerSizes(K, 1, 1, K))[0].double()
    torch.manual_seed(4)
    variant.rotations.copy_(torch.randn(1, K, rounds, buckets // 2, dtype=torch.float64)[0].transpose(0, 1))
    x = draw(B, 1, T, K)
    found = variant.hashed(x)  # (rounds, B, 1, T)
    expected = theirs._hash_vectors(x, rounds, None).view(B, 1, rounds, T).permute(2, 0, 1, 3)
    assert torch.equal(found, expected - buckets * torch.arange(rounds)[:, None, None, None])
    assert len(found.unique()) == buckets


REAL = torch.arange(T).expand(B, -1) < torch.tensor([[T], [T - 4]])


def hidden(causal: bool) -> Tensor:
    """(B, 1, T, T): -inf where no token may look, as the reference adds it."""
    allowed = REAL[:, None, None, :].expand(-1, -1, T, -1)
    allowed = allowed & torch.ones(T, T, dtype=torch.bool).tril() if causal else allowed
    return torch.zeros(B, 1, T, T, dtype=torch.float64).masked_fill(~allowed, -torch.inf)


def test_linear_biases_are_those_of_bloom(block: Callable[..., MultiHeadAttention], draw: Draw) -> None:
    """Theirs grow with the place of the key: in a row of a causal softmax that is the distance."""
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    ours, x = block("alibi"), draw(B, T, D)
    query, key = (ours._split(part(x)) for part in (ours.query, ours.key))
    bias = build_alibi_tensor(REAL.long(), H, torch.float64).view(B, H, 1, T)
    expected = torch.softmax(query @ key.mT * K**-0.5 + bias + hidden(True), dim=-1)
    found = ours(x, Context(AttentionMask(REAL, causal=True), need_weights=True)).weights
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)  # their slopes are float32


def test_shaw_is_that_of_wav2vec2_bert(block: Callable[..., MultiHeadAttention], draw: Draw) -> None:
    from transformers import Wav2Vec2BertConfig
    from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention

    config = Wav2Vec2BertConfig(
        hidden_size=D, num_attention_heads=H, position_embeddings_type="relative_key", attention_dropout=0.0,
        left_max_position_embeddings=3, right_max_position_embeddings=3, attn_implementation="eager",
    )  # fmt: skip
    theirs, ours = Wav2Vec2BertSelfAttention(config).double(), block({"name": "shaw", "reach": 3})
    for mine, other in ((ours.query, "q"), (ours.key, "k"), (ours.value, "v"), (ours.output, "out")):
        getattr(theirs, f"linear_{other}").load_state_dict(mine.state_dict())
    theirs.distance_embedding.weight.data.copy_(ours.variants[0].vectors)  # type: ignore[arg-type]
    x = draw(B, T, D)
    found, expected = ours(x, Context(AttentionMask(REAL))).output, theirs(x, hidden(False))[0]
    torch.testing.assert_close(found[REAL], expected[REAL], rtol=1e-10, atol=1e-10)
    mine, other = (gradients(y, REAL, x, *of) for y, of in (
        (found, [ours.variants[0].vectors]), (expected, [theirs.distance_embedding.weight]),
    ))  # fmt: skip
    torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("causal", [False, True])
def test_sinks_are_those_of_gpt_oss(causal: bool, block: Callable[..., MultiHeadAttention], draw: Draw) -> None:
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

    ours, x = block("sink", num_kv_heads=2), draw(B, T, D)
    logit: Any = ours.variants[0].logit
    theirs = torch.nn.Module()
    theirs.sinks, theirs.num_key_value_groups = logit, 2  # type: ignore[assignment]
    parts = [ours._split(part(x)) for part in (ours.query, ours.key, ours.value)]
    mixed, weights = eager_attention_forward(theirs, *parts, hidden(causal), scaling=K**-0.5)
    found = ours(x, Context(AttentionMask(REAL, causal=causal), need_weights=True))
    expected = ours.output(mixed.flatten(2))
    torch.testing.assert_close(found.output[REAL], expected[REAL], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.weights, weights, rtol=1e-10, atol=1e-10)
    both = [gradients(y, REAL, x, logit) for y in (found.output, expected)]
    torch.testing.assert_close(*both, rtol=1e-9, atol=1e-9)


def test_gates_are_those_of_qwen3_next(block: Callable[..., MultiHeadAttention], draw: Draw) -> None:
    """Without their norms of queries and keys, and with positions that do not turn."""
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextAttention

    config = Qwen3NextConfig(
        hidden_size=D, num_attention_heads=H, num_key_value_heads=2, head_dim=K, attention_bias=True,
        attn_implementation="sdpa",  # eager rounds to float32
    )  # fmt: skip
    theirs = Qwen3NextAttention(config, 0).double()
    theirs.q_norm, theirs.k_norm = torch.nn.Identity(), torch.nn.Identity()
    ours: Any = block({"name": "gated_output", "factor": 1.0}, num_kv_heads=2)
    gate = ours.variants[0].gate
    with torch.no_grad():
        for name in ("weight", "bias"):
            both = [getattr(part, name).unflatten(0, (H, K)) for part in (ours.query, gate)]
            getattr(theirs.q_proj, name).copy_(torch.cat(both, dim=1).flatten(0, 1))
            for mine, other in ((ours.key, theirs.k_proj), (ours.value, theirs.v_proj), (ours.output, theirs.o_proj)):
                getattr(other, name).copy_(getattr(mine, name))
    x, still = draw(B, T, D), torch.ones(B, T, K, dtype=torch.float64)
    expected = theirs(x, (still, 0 * still), hidden(False))[0]
    found = ours(x, Context(AttentionMask(REAL))).output
    torch.testing.assert_close(found[REAL], expected[REAL], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*(gradients(y, REAL, x) for y in (found, expected)), rtol=1e-9, atol=1e-9)
