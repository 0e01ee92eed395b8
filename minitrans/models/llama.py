"""LLaMA: a stack of pre-norm blocks without biases (Touvron et al. 2023). What differs from `gpt2.py`:

positions turn queries and keys in every block, norms are root mean squares, feed-forward networks are gated, and heads may
share keys and values. Mistral, Qwen2, Qwen3 and Gemma-2 say in files of their own what differs from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import nn

from minitrans.attention.rotary_scaling import ScaledRotary
from minitrans.attention.variant import LayerSizes, Variant
from minitrans.layers.block import Block
from minitrans.layers.embeddings import TokenEmbeddings
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.layers.norms import RMSNorm
from minitrans.layers.stack import Stack
from minitrans.models import decoder_tasks
from minitrans.models.arguments import in_order
from minitrans.models.backbone import Backbone
from minitrans.models.config import SIZE, DecoderConfig, EncoderConfig, Rule
from minitrans.models.rope import RULE, described

ORDER = "input_ids attention_mask position_ids past_key_values inputs_embeds"


@dataclass(kw_only=True)
class LlamaArchitectureConfig(DecoderConfig):
    """What LLaMA and those that follow it have; `config.py` says what each of the other fields means."""

    own_names: ClassVar[Mapping[str, str]] = {
        "layer_norm_eps": "rms_norm_eps", "attention_probs_dropout_prob": "attention_dropout",
    }  # fmt: skip
    lacking: ClassVar[Mapping[str, Any]] = {
        **DecoderConfig.lacking, "hidden_dropout_prob": 0.0, "attention_bias": False, "mlp_bias": False,
    }  # fmt: skip
    rules: ClassVar[tuple[Rule, ...]] = (
        *DecoderConfig.rules,
        (("kv_heads", "head_width"), *SIZE),
        (("kv_heads",), lambda groups, c: c.num_attention_heads % groups == 0, "a divisor of num_attention_heads"),
        (("head_width",), lambda width, c: width % 2 == 0, "even: rotary positions turn pairs of columns"),
        (("pruned_heads",), lambda pruned, c: not pruned, "empty: heads share keys and values; use head_mask"),
        RULE,
    )

    hidden_size: int = 4096  # D
    num_hidden_layers: int = 32  # L
    num_attention_heads: int = 32  # H
    num_key_value_heads: int | None = None  # G; None = H
    head_dim: int | None = None  # K; None = D / H
    intermediate_size: int = 11008  # F
    max_position_embeddings: int = 2048  # longest text in training; not a limit
    rms_norm_eps: float = 1e-6
    attention_dropout: float = 0.0  # on attention probabilities
    tie_word_embeddings: bool = False
    rope_parameters: dict[str, Any] | None = None  # see `attention.rotary_scaling`
    rope_scaling: dict[str, Any] | None = None  # the same in older files,
    rope_theta: float | None = None  # with the base beside it
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    @property
    def kv_heads(self) -> int:
        """G."""
        return self.num_attention_heads if self.num_key_value_heads is None else self.num_key_value_heads

    @property
    def head_width(self) -> int:
        """K."""
        return self.hidden_size // self.num_attention_heads if self.head_dim is None else self.head_dim

    @property
    def rope(self) -> dict[str, Any]:
        """How positions turn queries and keys, whichever fields say it."""
        return described(self.rope_scaling or self.rope_parameters, self.max_position_embeddings, self.rope_theta)


@dataclass(kw_only=True)
class LlamaConfig(LlamaArchitectureConfig):
    """The defaults are the reference's, of the first models."""

    model_type: ClassVar[str] = "llama"

    vocab_size: int = 32000
    hidden_act: str = "silu"  # of the gate
    attention_bias: bool = False  # whether the projections of the attention have biases
    mlp_bias: bool = False  # whether those of the feed-forward network do


class LlamaBody(Backbone):
    """Embeddings, L pre-norm blocks with causal attention, and a norm.

    Args:
        config: sizes and rules.
    """

    base_model_prefix = "model"
    has_pooler = False
    forward = in_order(Backbone, f"{ORDER} use_cache")

    @property
    def longest(self) -> None:
        """There is no end: positions are angles."""

    def build(self, config: EncoderConfig) -> None:
        """Bottom up."""
        config = cast("LlamaArchitectureConfig", config)
        self.embeddings = TokenEmbeddings(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        blocks = (self.block(config, layer) for layer in range(config.num_hidden_layers))
        self.encoder = Stack(blocks, self.norm(config))

    def block(self, config: LlamaArchitectureConfig, layer: int) -> Block:
        """The block of this layer, from 0."""
        width, hidden, act = config.hidden_size, config.intermediate_size, config.hidden_act
        network = FeedForward(width, hidden, act=act, gated=True, bias=config.mlp_bias)
        return Block(self.attention(config, layer), network, [self.norm(config), self.norm(config)], norm_first=True)

    def norm(self, config: LlamaArchitectureConfig) -> RMSNorm:
        """One of the norms."""
        return RMSNorm(config.hidden_size, config.rms_norm_eps)

    def attention(self, config: LlamaArchitectureConfig, layer: int, **options: Any) -> MultiHeadAttention:
        """The attention of this layer."""
        heads, groups, head_width = config.num_attention_heads, config.kv_heads, config.head_width
        sizes = LayerSizes(config.hidden_size, heads, groups, head_width, layer)
        given = {"bias": config.attention_bias, "dropout": config.attention_dropout, **options}
        return MultiHeadAttention(
            config.hidden_size,
            heads,
            num_kv_heads=groups,
            head_width=head_width,
            own=self.variants(config, sizes),
            **given,
        )

    def variants(self, config: LlamaArchitectureConfig, sizes: LayerSizes) -> list[Variant]:
        """What belongs to the attention of the architecture."""
        return [ScaledRotary(sizes, config.rope)]


class LlamaModel(LlamaBody):
    """The body of LLaMA."""

    config_class = LlamaConfig


class CausalLM(decoder_tasks.CausalLM):
    """Scores of the next token."""

    forward = in_order(decoder_tasks.CausalLM, f"{ORDER} labels use_cache logits_to_keep")


class SequenceClassification(decoder_tasks.SequenceClassification):
    """A linear classifier on the last token (G3)."""

    forward = in_order(decoder_tasks.SequenceClassification, f"{ORDER} labels use_cache")


class TokenClassification(decoder_tasks.TokenClassification):
    """A linear classifier on every token."""

    forward = in_order(decoder_tasks.TokenClassification, f"{ORDER} labels use_cache")

    def build_head(self, config: EncoderConfig) -> None:
        """`dropout` and `label_scores`: the files call it as they do the classifier of texts."""
        self.dropout = nn.Dropout(config.head_dropout)
        self.label_scores = nn.Linear(config.hidden_size, config.num_labels)

    @property
    def classifier(self) -> nn.Linear:  # type: ignore[override]
        """`label_scores`."""
        return self.label_scores


class QuestionAnswering(decoder_tasks.QuestionAnswering):
    """A score of every token as the first, and one as the last of the answer."""

    forward = in_order(decoder_tasks.QuestionAnswering, f"{ORDER} start_positions end_positions")


class LlamaForCausalLM(CausalLM):
    """LLaMA with a head that scores the next token."""

    body_class = LlamaModel


class LlamaForSequenceClassification(SequenceClassification):
    """LLaMA with a linear classifier on the last token."""

    body_class = LlamaModel


class LlamaForTokenClassification(TokenClassification):
    """LLaMA with a linear classifier on every token."""

    body_class = LlamaModel


class LlamaForQuestionAnswering(QuestionAnswering):
    """LLaMA with a head that scores every token as the first and as the last of the answer."""

    body_class = LlamaModel
    base_model_prefix = "transformer"  # as the reference has it here, and only here
