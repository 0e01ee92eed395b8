"""Other architectures out of the same parts: no class of their own, no parameter added, equal to the reference in float64."""

from __future__ import annotations

import re

import pytest
import torch
import transformers
from torch import Tensor, nn

from minitrans.attention.context import Context
from minitrans.attention.mask import AttentionMask
from minitrans.layers.block import Block
from minitrans.layers.cache import Cache
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.multi_head_attention import AttentionOutput, MultiHeadAttention
from minitrans.layers.norms import LayerNorm, RMSNorm
from minitrans.layers.position_bias import BucketBias
from minitrans.layers.stack import Stack

V, D, L, H, G, F_WIDTH, T = 29, 24, 3, 4, 2, 40, 9
IDS = torch.randint(1, V, (2, T), generator=torch.Generator().manual_seed(3))
REAL = torch.tensor([[True] * T, [True] * 6 + [False] * 3])


def copied(stack: Stack, table: dict[str, Tensor], names: dict[str, str]) -> Stack:
    """Every parameter of ours from the reference's state dict, every one of the reference's used."""
    state, used = {}, set()
    for name in stack.state_dict():
        theirs = name
        for ours, reference in names.items():
            theirs = re.sub(ours, reference, theirs)
        state[name] = table[theirs]
        used.add(theirs)
    assert used == set(table)
    stack.load_state_dict(state, strict=True)
    return stack.double()


def randomized(reference: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():  # fresh norms are 1: a swapped one would go unnoticed
        for parameter in reference.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return reference.double()


def in_float64(reference: nn.Module) -> nn.Module:
    """The reference squares in float32 even in a float64 model; its formula in full precision leaves nothing to excuse."""
    for module in reference.modules():
        if type(module).__name__.endswith(("RMSNorm", "T5LayerNorm")):
            module.forward = lambda x, m=module: m.weight * x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    return reference


def compare(stack: Stack, x: Tensor, context: Context, expected: Tensor, where: Tensor, tolerance: float) -> None:
    got = stack(x, context).output
    assert (got - expected)[where].abs().max() <= tolerance * expected[where].abs().max()


LLAMA = {
    r"^layer\.": "layers.", "attention_LayerNorm": "input_layernorm", "feed_forward_LayerNorm": "post_attention_layernorm",
    "attention.query": "self_attn.q_proj", "attention.key": "self_attn.k_proj", "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj", "feed_forward.gate": "mlp.gate_proj", "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj", "^LayerNorm": "norm",
}  # fmt: skip
QK_NORM = {
    r"attention.variants.0.query_weight": "self_attn.q_norm.weight",
    r"attention.variants.0.key_weight": "self_attn.k_norm.weight",
    **LLAMA,
}


@pytest.mark.parametrize("kind", ["LLaMA", "Qwen3"])
def test_a_llama_out_of_blocks_and_rows(kind: str) -> None:
    sizes = {
        "vocab_size": V, "hidden_size": D, "num_hidden_layers": L, "num_attention_heads": H, "num_key_value_heads": G,
        "intermediate_size": F_WIDTH, "rms_norm_eps": 1e-3, "head_dim": 8, "max_position_embeddings": 32,
        "attn_implementation": "sdpa",  # eager takes its softmax in float32
        "pad_token_id": 0,
    }  # fmt: skip
    reference = randomized(
        transformers.LlamaModel(transformers.LlamaConfig(**sizes))
        if kind == "LLaMA"
        else transformers.Qwen3Model(transformers.Qwen3Config(**sizes))
    )
    blocks = [
        Block(
            MultiHeadAttention(D, H, num_kv_heads=G, head_width=8, bias=False, backend="eager"),
            FeedForward(D, F_WIDTH, act="silu", gated=True, bias=False),
            (RMSNorm(D, 1e-3), RMSNorm(D, 1e-3)),
            norm_first=True,
        )
        for _ in range(L)
    ]
    rows = ["rotary"] if kind == "LLaMA" else [{"name": "qk_norm", "eps": 1e-3}, "rotary"]
    for layer, block in enumerate(blocks):
        block.attention.set_attention(rows, layer=layer)
    table = reference.state_dict()
    embeddings = table.pop("embed_tokens.weight")
    stack = copied(Stack(blocks, RMSNorm(D, 1e-3)), table, LLAMA if kind == "LLaMA" else QK_NORM)

    positions = torch.arange(T).expand(2, T)
    context = Context(mask=AttentionMask(causal=True, key_padding=REAL), positions=positions)
    expected = reference(IDS, attention_mask=REAL.long()).last_hidden_state.detach()
    # the reference keeps angles and squares in float32: 2 ** -24 times the largest position, through L layers
    compare(stack, embeddings[IDS], context, expected, REAL, 1e-5)

    in_float64(reference)
    frequencies = 10000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    angles = torch.cat([positions[..., None] * frequencies] * 2, dim=-1)
    reference.rotary_emb.forward = lambda x, position_ids: (angles.cos(), angles.sin())
    expected = reference(IDS, attention_mask=REAL.long()).last_hidden_state.detach()
    compare(stack, embeddings[IDS], context, expected, REAL, 1e-10)

    cache, steps = Cache.growing(L), []
    with torch.no_grad():
        for start, part in zip((0, 4, 5), embeddings[IDS].split_with_sizes([4, 1, 4], dim=1), strict=True):
            end = start + part.shape[1]
            past = Context(
                mask=AttentionMask(causal=True, key_padding=REAL[:, :end]), positions=positions[:, start:end]
            )
            steps.append(stack(part, past, cache).output)
    assert (torch.cat(steps, dim=1) - expected)[REAL].abs().max() <= 1e-10 * expected.abs().max()


T5 = {
    "^relative_attention_bias": "block.0.layer.0.SelfAttention.relative_attention_bias", r"^layer\.": "block.",
    "attention_LayerNorm": "layer.0.layer_norm", "feed_forward_LayerNorm": "layer.1.layer_norm",
    ".attention.query": ".layer.0.SelfAttention.q", ".attention.key": ".layer.0.SelfAttention.k",
    ".attention.value": ".layer.0.SelfAttention.v", ".attention.output": ".layer.0.SelfAttention.o",
    "^LayerNorm": "final_layer_norm",
}  # fmt: skip
T5_RELU = {"feed_forward.up": "layer.1.DenseReluDense.wi", "feed_forward.down": "layer.1.DenseReluDense.wo"}
T5_GATED = {
    "feed_forward.gate": "layer.1.DenseReluDense.wi_0",
    "feed_forward.up": "layer.1.DenseReluDense.wi_1",
    "feed_forward.down": "layer.1.DenseReluDense.wo",
}


@pytest.mark.parametrize("gated", [False, True], ids=["T5", "T5 v1.1"])
def test_a_t5_encoder_out_of_blocks_and_rows(gated: bool) -> None:
    config = transformers.T5Config(
        vocab_size=V, d_model=D, d_kv=8, num_layers=L, num_heads=H, d_ff=F_WIDTH, layer_norm_epsilon=1e-3,
        relative_attention_num_buckets=8, relative_attention_max_distance=6, dropout_rate=0.0,
        feed_forward_proj="gated-gelu" if gated else "relu",
    )  # fmt: skip
    reference = in_float64(randomized(transformers.T5EncoderModel(config)))
    blocks = [
        Block(
            MultiHeadAttention(D, H, head_width=8, bias=False, scale=1.0),  # T3
            FeedForward(D, F_WIDTH, act="gelu_new" if gated else "relu", gated=gated, bias=False),
            (RMSNorm(D, 1e-3), RMSNorm(D, 1e-3)),
            norm_first=True,
        )
        for _ in range(L)
    ]
    stack = Stack(blocks, RMSNorm(D, 1e-3), position_bias=BucketBias(8, H, max_distance=6))
    table = {
        name.removeprefix("encoder."): tensor
        for name, tensor in reference.state_dict().items()
        if name.startswith("encoder.") and name != "encoder.embed_tokens.weight"
    }
    stack = copied(stack, table, {**T5, **(T5_GATED if gated else T5_RELU)})
    expected = reference(IDS, attention_mask=REAL.long()).last_hidden_state.detach()
    x = reference.shared.weight.detach()[IDS]
    compare(stack, x, Context(mask=AttentionMask(key_padding=REAL)), expected, REAL, 1e-10)


class Fourier(nn.Module):
    """FNet's mixer, in three lines (Lee-Thorp et al. 2021, section 3.2)."""

    def forward(self, x: Tensor, context: Context, cache: None = None) -> AttentionOutput:
        return AttentionOutput(torch.fft.fftn(x, dim=(1, 2)).real)


def test_an_fnet_out_of_blocks_and_a_mixer() -> None:
    config = transformers.FNetConfig(
        vocab_size=V, hidden_size=D, num_hidden_layers=L, intermediate_size=F_WIDTH, layer_norm_eps=1e-3,
        hidden_dropout_prob=0.0, type_vocab_size=2, max_position_embeddings=32,
    )  # fmt: skip
    reference = randomized(transformers.FNetModel(config))
    blocks = [
        Block(Fourier(), FeedForward(D, F_WIDTH, act="gelu_new"), (LayerNorm(D, 1e-3), LayerNorm(D, 1e-3)))
        for _ in range(L)
    ]
    names = {
        "feed_forward_LayerNorm": "output.LayerNorm", "attention_LayerNorm": "fourier.output.LayerNorm",
        "feed_forward.up": "intermediate.dense", "feed_forward.down": "output.dense",
    }  # fmt: skip
    table = {
        name.removeprefix("encoder."): tensor
        for name, tensor in reference.state_dict().items()
        if name.startswith("encoder.")
    }
    stack = copied(Stack(blocks), table, names)
    x = reference.embeddings(IDS).detach()
    expected = reference(IDS).last_hidden_state.detach()
    compare(stack, x, Context(), expected, torch.ones_like(REAL), 1e-10)
