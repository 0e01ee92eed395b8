"""BART: a pair that repairs damaged text (Lewis et al. 2020). What differs from the pair of 2017:

positions are learned, from row 2 of their table (S1); the sum of the embeddings is normalised (S2); a bias that is not trained
stands beside the projection onto the vocabulary (S3); what the decoder reads begins with the end token (S4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from minitrans.layers.block import Block
from minitrans.layers.embeddings import TokenEmbeddings
from minitrans.layers.half_precision import ClampedEnd
from minitrans.layers.norms import LayerNorm
from minitrans.layers.positions import OffsetPositions
from minitrans.layers.stack import Stack
from minitrans.models import pair_tasks, tasks
from minitrans.models.backbone import Backbone, build_block
from minitrans.models.config import SIZE, EncoderConfig, Rule
from minitrans.models.encoder_decoder import DecoderOnly, EncoderDecoder, PairConfig

EPS = 1e-5  # S1: of every norm, whatever the configuration says


@dataclass(kw_only=True)
class BartConfig(PairConfig):
    """The defaults are those of bart-large; the meaning of the other fields stands in `config.py`."""

    model_type: ClassVar[str] = "bart"
    own_names: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model", "num_hidden_layers": "encoder_layers", "num_attention_heads": "encoder_attention_heads",
        "intermediate_size": "encoder_ffn_dim", "layer_drop": "encoder_layerdrop", "hidden_act": "activation_function",
        "hidden_dropout_prob": "dropout", "attention_probs_dropout_prob": "attention_dropout", "initializer_range": "init_std",
    }  # fmt: skip
    of_decoder: ClassVar[Mapping[str, str]] = {
        "num_hidden_layers": "decoder_layers", "num_attention_heads": "decoder_attention_heads",
        "intermediate_size": "decoder_ffn_dim", "layer_drop": "decoder_layerdrop",
    }  # fmt: skip
    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model", "num_hidden_layers": "encoder_layers", "num_attention_heads": "encoder_attention_heads",
    }  # fmt: skip
    rules: ClassVar[tuple[Rule, ...]] = (
        *PairConfig.rules,
        (("decoder_layers", "decoder_attention_heads", "decoder_ffn_dim"), *SIZE),
        (("decoder_attention_heads",), lambda heads, c: c.d_model % heads == 0, lambda c: f"a divisor of d_model={c.d_model}"),
        (("encoder_layerdrop", "decoder_layerdrop"), lambda rate, c: 0.0 <= rate < 1.0, "in [0, 1)"),
        (("is_encoder_decoder",), lambda pair, c: pair != c.is_decoder, "the opposite of is_decoder"),
    )  # fmt: skip
    layer_norm_eps: ClassVar[float] = EPS
    learned_positions: ClassVar[bool] = True

    vocab_size: int = 50265
    max_position_embeddings: int = 1024
    d_model: int = 1024  # D
    encoder_layers: int = 12  # L of the encoder
    encoder_attention_heads: int = 16  # H of the encoder
    encoder_ffn_dim: int = 4096  # F of the encoder
    decoder_layers: int = 12
    decoder_attention_heads: int = 16
    decoder_ffn_dim: int = 4096
    encoder_layerdrop: float = 0.0  # probability that training leaves a layer out
    decoder_layerdrop: float = 0.0
    activation_function: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    classifier_dropout: float = 0.0
    init_std: float = 0.02
    is_decoder: bool = False  # the decoder alone
    is_encoder_decoder: bool = True  # the pair
    scale_embedding: bool = False  # token embeddings times the root of D (S3)
    num_labels: int = 3
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = 2
    forced_eos_token_id: int | list[int] | None = 2  # what generation ends a text with that has reached its length

    @property
    def shares_tables(self) -> bool:
        """Ties are all or none."""
        return self.tie_word_embeddings


class BartSide(Backbone):
    """One half: embeddings and L blocks.

    Args:
        config: of the pair for the encoder, or its `DecoderSide`.
    """

    config_class = BartConfig
    base_model_prefix = "side"
    has_pooler = False
    norm_first: ClassVar[bool] = False  # and then a norm after the last block (S2)
    normed_embeddings: ClassVar[bool] = True

    def build(self, config: EncoderConfig) -> None:
        """Bottom up."""
        width = config.hidden_size
        self.embeddings = TokenEmbeddings(
            config.vocab_size, width,
            positions=self.position_table(config),
            padding_idx=config.pad_token_id,
            scale=math.sqrt(width) if config.scale_embedding else 1.0,
            norm=LayerNorm(width, EPS) if self.normed_embeddings else None,
            dropout=config.hidden_dropout_prob,
        )  # fmt: skip
        kind = Block if config.is_decoder else ClampedEnd
        blocks = (build_block(config, norm_first=self.norm_first, kind=kind) for _ in range(config.num_hidden_layers))
        norm = LayerNorm(width, EPS) if self.norm_first else None
        self.encoder = Stack(blocks, norm, layer_drop=config.layer_drop)

    def position_table(self, config: EncoderConfig) -> nn.Module:
        """What gives the vectors of positions (S1)."""
        return OffsetPositions(config.max_position_embeddings, config.hidden_size)


class BartKin(EncoderDecoder):
    """The body of every family here and in the files that begin with this one.

    Args:
        config: sizes and rules.
    """

    base_model_prefix = "model"


class BartModel(BartKin):
    """Both halves.

    Args:
        config: sizes and rules.
    """

    config_class = BartConfig
    side_class = BartSide

    def default_target(self, input_ids: Tensor | None) -> Tensor:
        """The source, shifted: what BART was trained to repair (S4)."""
        return super().default_target(None) if input_ids is None else self.shift_right(input_ids)


class BartForConditionalGeneration(pair_tasks.BiasedGeneration, tasks.TaskModel):
    """BART with a projection that scores the next token of the target."""

    body_class = cast("Any", BartModel)


class BartForSequenceClassification(pair_tasks.SequenceClassification, tasks.TaskModel):
    """BART with a two-layer classifier on the end of the text."""

    body_class = cast("Any", BartModel)


class BartForQuestionAnswering(pair_tasks.QuestionAnswering, tasks.TaskModel):
    """BART with a head that scores every token as the first and as the last of the answer."""

    body_class = cast("Any", BartModel)


class BartDecoderModel(DecoderOnly):
    """The right half alone.

    Args:
        config: of the pair.
    """

    config_class = BartConfig
    base_model_prefix = "model"
    side_class = BartSide


class BartForCausalLM(pair_tasks.CausalDecoder):
    """The right half with a projection that scores the next token."""

    body_class = cast("Any", BartDecoderModel)
