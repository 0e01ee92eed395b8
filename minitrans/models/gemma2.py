"""Gemma-2: LLaMA with norms around each sub-layer, capped scores and a window in every other layer (Gemma Team 2024).

Embeddings are multiplied by the root of the width, and the weight of a norm is what it has above 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from minitrans.layers.block import Block
from minitrans.layers.embeddings import TokenEmbeddings
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.layers.norms import OffsetRMSNorm, RMSNorm
from minitrans.models import llama
from minitrans.models.config import SIZE, EncoderConfig, Rule
from minitrans.models.mistral import WindowedBody
from minitrans.models.qwen2 import LayerTypesConfig


@dataclass(kw_only=True)
class Gemma2Config(LayerTypesConfig):
    """The defaults are the reference's."""

    model_type: ClassVar[str] = "gemma2"
    own_names: ClassVar[Mapping[str, str]] = {**LayerTypesConfig.own_names, "hidden_act": "hidden_activation"}
    rules: ClassVar[tuple[Rule, ...]] = (
        *LayerTypesConfig.rules,
        (("query_pre_attn_scalar",), *SIZE),
        (
            ("attn_logit_softcapping", "final_logit_softcapping"), lambda cap, c: cap is None or 0.0 < cap < 1e6,
            "positive, or null for none",
        ),
    )  # fmt: skip

    vocab_size: int = 256000
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int | None = 4
    head_dim: int | None = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    query_pre_attn_scalar: int = 256  # scores are divided by its root
    attn_logit_softcapping: float | None = 50.0  # of the scores of attention, see `AttentionRules.softcap`
    final_logit_softcapping: float | None = 30.0  # of the scores of the next token
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 1

    def has_window(self, layer: int) -> bool:
        """Every other layer, the first too."""
        return layer % 2 == 0


class ScaledEmbeddings(TokenEmbeddings):
    """Rows of the token table times the scale, which is rounded to their dtype first."""

    def rows(self, tokens: Tensor) -> Tensor:
        """(..., D)."""
        x: Tensor = self.word_embeddings(tokens)
        return x * torch.tensor(self.scale, dtype=x.dtype, device=x.device)


class NormedProjection(nn.Module):
    """A projection whose output is normalised: what a sub-layer of Gemma-2 adds to the residual stream.

    Args:
        projection: (..., in) -> (..., D).
        norm: of its output.
    """

    def __init__(self, projection: nn.Linear, norm: RMSNorm) -> None:
        super().__init__()
        self.projection, self.LayerNorm = projection, norm

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., D)."""
        y: Tensor = self.LayerNorm(self.projection(x))
        return y


class Gemma2Model(WindowedBody):
    """The body of Gemma-2."""

    config_class = Gemma2Config

    def build(self, config: EncoderConfig) -> None:
        """As LLaMA's, with embeddings that are multiplied."""
        super().build(config)
        self.embeddings = ScaledEmbeddings(
            config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id, scale=config.hidden_size**0.5
        )

    def norm(self, config: llama.LlamaArchitectureConfig) -> RMSNorm:
        """One of the norms."""
        return OffsetRMSNorm(config.hidden_size, config.rms_norm_eps)

    def block(self, config: llama.LlamaArchitectureConfig, layer: int) -> Block:
        """As LLaMA's, with a norm after each sub-layer too."""
        block = super().block(config, layer)
        attention, network = cast("Any", block.attention), cast("Any", block.feed_forward)
        attention.output = NormedProjection(attention.output, self.norm(config))
        network.down = NormedProjection(network.down, self.norm(config))
        return block

    def attention(self, config: llama.LlamaArchitectureConfig, layer: int, **options: Any) -> MultiHeadAttention:
        """As LLaMA's, with scores scaled and capped otherwise."""
        own = cast("Gemma2Config", config)
        scale, cap = own.query_pre_attn_scalar**-0.5, own.attn_logit_softcapping
        return super().attention(config, layer, scale=scale, softcap=cap, **options)


class Gemma2ForCausalLM(llama.CausalLM):
    """Gemma-2 with a head that scores the next token."""

    body_class = Gemma2Model

    def score(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V), capped: c · tanh(score / c)."""
        scores, cap = super().score(hidden), cast("Gemma2Config", self.config).final_logit_softcapping
        return scores if cap is None else torch.tanh(scores / cap) * cap


class Gemma2ForSequenceClassification(llama.SequenceClassification):
    """Gemma-2 with a linear classifier on the last token."""

    body_class = Gemma2Model


class Gemma2ForTokenClassification(llama.TokenClassification):
    """Gemma-2 with a linear classifier on every token."""

    body_class = Gemma2Model
