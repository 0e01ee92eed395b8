"""GPT-2: a stack of pre-norm blocks in which a token sees those before it (Radford et al. 2019). What differs from `bert.py`:

it is a decoder and nothing else, with a norm after the last block and none on the embeddings; types of tokens are ids of the
token table (G2); scores may be scaled otherwise, by layer too (M6); and its heads are those of `decoder_tasks.py` (G3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from minitrans.layers.embeddings import TokenEmbeddings
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.multi_head_attention import CrossAttention, MultiHeadAttention
from minitrans.layers.norms import LayerNorm
from minitrans.layers.stack import Stack
from minitrans.models import decoder_tasks
from minitrans.models.arguments import in_order
from minitrans.models.backbone import Backbone, build_block
from minitrans.models.config import EncoderConfig
from minitrans.models.double_heads import DoubleHeads, DoubleHeadsConfig

ORDER = "input_ids past_key_values attention_mask token_type_ids position_ids inputs_embeds"


@dataclass(kw_only=True)
class GPT2Config(DoubleHeadsConfig):
    """The defaults are those of gpt2, the smallest; the meaning of the other fields stands in `config.py`."""

    model_type: ClassVar[str] = "gpt2"
    own_names: ClassVar[Mapping[str, str]] = {
        "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
        "intermediate_size": "n_inner", "max_position_embeddings": "n_positions", "hidden_act": "activation_function",
        "hidden_dropout_prob": "resid_pdrop", "attention_probs_dropout_prob": "attn_pdrop",
        "layer_norm_eps": "layer_norm_epsilon",
    }  # fmt: skip
    aliases: ClassVar[Mapping[str, str]] = {
        **DoubleHeadsConfig.aliases, "hidden_size": "n_embd", "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head", "max_position_embeddings": "n_positions",
    }  # fmt: skip
    instead: ClassVar[Mapping[str, str]] = {**DoubleHeadsConfig.instead, "type_vocab_size": "vocab_size"}  # G2

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768  # D
    n_layer: int = 12  # L
    n_head: int = 12  # H
    n_inner: int | None = None  # F; None = 4 D
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1  # dropout of each sub-layer's output
    embd_pdrop: float = 0.1  # ... of the embeddings
    attn_pdrop: float = 0.1  # ... of the attention probabilities
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True  # divide scores by the root of K
    scale_attn_by_inverse_layer_idx: bool = False  # ... and by the number of the layer, from 1
    reorder_and_upcast_attn: bool = False  # scores of half-precision models in float32: rounding, nothing else
    add_cross_attention: bool = False
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256
    pad_token_id: int | None = None

    @property
    def intermediate_size(self) -> int:
        """F."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    def scale_of(self, layer: int) -> float:
        """The factor of the scores in this layer, from 0 (M6)."""
        scale = (self.n_embd // self.n_head) ** -0.5 if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale


class GPT2Embeddings(TokenEmbeddings):
    """Tokens and positions, and types, where given, which are ids of the token table (G2)."""

    def total(self, tokens: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        """(..., D)."""
        x = super().total(tokens, positions, types)
        return x if types is None else x + self.word_embeddings(types)


class GPT2Model(Backbone):
    """Embeddings, L pre-norm blocks with causal attention, and a norm.

    Args:
        config: sizes and rules.
    """

    config_class = GPT2Config
    base_model_prefix = "transformer"
    has_pooler = False
    forward = in_order(Backbone, f"{ORDER} encoder_hidden_states encoder_attention_mask use_cache")

    def build(self, config: EncoderConfig) -> None:
        """Bottom up."""
        config = cast("GPT2Config", config)
        places = nn.Embedding(config.n_positions, config.n_embd)
        self.embeddings = GPT2Embeddings(config.vocab_size, config.n_embd, positions=places, dropout=config.embd_pdrop)
        scales = (config.scale_of(layer) for layer in range(config.n_layer))
        blocks = (build_block(config, norm_first=True, scale=scale) for scale in scales)
        self.encoder = Stack(blocks, LayerNorm(config.n_embd, config.layer_norm_epsilon))

    def init_weights(self, module: nn.Module | None = None) -> None:
        """What is added to the residual stream begins smaller the deeper the stack (G3)."""
        super().init_weights(module)
        last = {MultiHeadAttention: "output", CrossAttention: "output", FeedForward: "down"}.get(type(module))
        if last is not None:
            std = self.config.initializer_range / math.sqrt(2 * self.config.num_hidden_layers)
            nn.init.normal_(cast("nn.Linear", cast("Any", module).get_submodule(last)).weight, std=std)


class GPT2LMHeadModel(decoder_tasks.CausalLM):
    """GPT-2 with a head that scores the next token."""

    body_class = GPT2Model
    forward = in_order(
        decoder_tasks.CausalLM, f"{ORDER} encoder_hidden_states encoder_attention_mask labels use_cache logits_to_keep"
    )


class GPT2DoubleHeadsModel(DoubleHeads):
    """GPT-2 with that head, and one that scores each of several texts."""

    body_class = GPT2Model
    forward = in_order(DoubleHeads, f"{ORDER} mc_token_ids labels mc_labels use_cache")


class GPT2ForSequenceClassification(decoder_tasks.SequenceClassification):
    """GPT-2 with a linear classifier on the last token."""

    body_class = GPT2Model
    forward = in_order(decoder_tasks.SequenceClassification, f"{ORDER} labels use_cache")


class GPT2ForTokenClassification(decoder_tasks.TokenClassification):
    """GPT-2 with a linear classifier on every token."""

    body_class = GPT2Model
    forward = in_order(decoder_tasks.TokenClassification, f"{ORDER} labels use_cache")


class GPT2ForQuestionAnswering(decoder_tasks.QuestionAnswering):
    """GPT-2 with a head that scores every token as the first and as the last of the answer."""

    body_class = GPT2Model
