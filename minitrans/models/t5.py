"""T5: every task as text to text (Raffel et al. 2020). What differs from the pair of 2017:

pre-norm blocks with RMSNorm and no biases (T1); scores are not scaled, positions are a learned score for each distance, which
the first block of a side owns and all use (T2); the feed-forward network may be gated (T3, version 1.1 and Flan).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from minitrans.layers.block import Block
from minitrans.layers.embeddings import TokenEmbeddings
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.half_precision import ClampedBlock, WideLinear
from minitrans.layers.multi_head_attention import CrossAttention, MultiHeadAttention
from minitrans.layers.norms import RMSNorm
from minitrans.layers.position_bias import BucketBias
from minitrans.layers.stack import Stack
from minitrans.models import pair_tasks, tasks
from minitrans.models.backbone import Backbone
from minitrans.models.config import SIZE, EncoderConfig, Rule
from minitrans.models.encoder_decoder import EncoderDecoder, EncoderOnly, PairConfig


@dataclass(kw_only=True)
class T5Config(PairConfig):
    """The defaults are those of t5-small; the meaning of the other fields stands in `config.py`."""

    model_type: ClassVar[str] = "t5"
    is_encoder_decoder: ClassVar[bool] = True
    own_names: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model", "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads",
        "intermediate_size": "d_ff", "hidden_dropout_prob": "dropout_rate", "attention_probs_dropout_prob": "dropout_rate",
        "layer_norm_eps": "layer_norm_epsilon", "initializer_range": "initializer_factor",
    }  # fmt: skip
    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model", "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads", "head_dim": "d_kv",
    }  # fmt: skip
    of_decoder: ClassVar[Mapping[str, str]] = {"num_hidden_layers": "num_decoder_layers"}
    lacking: ClassVar[Mapping[str, Any]] = {**PairConfig.lacking, "max_position_embeddings": 2**40}
    rules: ClassVar[tuple[Rule, ...]] = (
        *(rule for rule in PairConfig.rules if rule[0] != ("hidden_size",)),  # T1: D need not be H · K
        (("d_kv", "relative_attention_num_buckets", "relative_attention_max_distance"), *SIZE),
        (("num_decoder_layers",), lambda layers, c: layers is None or layers >= 1, "at least 1"),
        (("feed_forward_proj",), lambda kind, c: kind.count("-") == kind.startswith("gated-"), "an activation, or gated-..."),
    )  # fmt: skip

    vocab_size: int = 32128
    d_model: int = 512  # D
    d_kv: int = 64  # K
    d_ff: int = 2048  # F
    num_layers: int = 6  # L of the encoder
    num_decoder_layers: int | None = None  # L of the decoder; None = as many
    num_heads: int = 8  # H
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    classifier_dropout: float = 0.0
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0  # of the deviations of fresh weights
    feed_forward_proj: str = "relu"
    share_encoder_decoder_embeddings: bool = True  # source and target have one token table
    scale_decoder_outputs: bool | None = None  # divide what is scored by the root of D; None = where it is tied (T4)
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    decoder_start_token_id: int | None = 0

    def __post_init__(self) -> None:
        self.num_decoder_layers = self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers
        if self.scale_decoder_outputs is None:
            self.scale_decoder_outputs = self.tie_word_embeddings
        self.tie_word_embeddings &= self.share_encoder_decoder_embeddings  # else there is no one table to be tied to
        super().__post_init__()

    @property
    def shares_tables(self) -> bool:
        """Whether they are one."""
        return self.share_encoder_decoder_embeddings

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward network multiplies two projections (T3)."""
        return self.feed_forward_proj.startswith("gated-")

    @property
    def hidden_act(self) -> str:
        """Of the feed-forward network: "gated-gelu" means the tanh form (T3)."""
        return "gelu_new" if self.feed_forward_proj == "gated-gelu" else self.feed_forward_proj.removeprefix("gated-")


class FinalNorm(RMSNorm):
    """RMSNorm, then dropout, after the last block (T1).

    Args:
        width: D.
        eps: of the norm.
        dropout: probability.
    """

    def __init__(self, width: int, eps: float, dropout: float) -> None:
        super().__init__(width, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        normed: Tensor = self.dropout(super().forward(x))
        return normed


class T5Side(Backbone):
    """One half of T5: token embeddings, L pre-norm blocks that share their scores of distances, a norm.

    Args:
        config: of the pair for the encoder, or its `DecoderSide`.
    """

    config_class = T5Config
    base_model_prefix = "side"
    has_pooler = False

    def build(self, config: EncoderConfig) -> None:
        """Bottom up."""
        rate, width = config.dropout_rate, config.d_model
        self.embeddings = TokenEmbeddings(config.vocab_size, width, dropout=rate)
        blocks = (self.block(cast("T5Config", config)) for _ in range(config.num_hidden_layers))
        norm = FinalNorm(width, config.layer_norm_epsilon, rate)
        self.encoder = Stack(blocks, norm, position_bias=self.shared_distances(cast("T5Config", config)))

    def distances(self, config: T5Config) -> BucketBias:
        """A table of scores; the decoder, which looks back only, has all buckets for that side (T2)."""
        buckets, furthest = config.relative_attention_num_buckets, config.relative_attention_max_distance
        return BucketBias(buckets, config.num_heads, bidirectional=not config.is_decoder, max_distance=furthest)

    def shared_distances(self, config: T5Config) -> BucketBias | None:
        """What all blocks add (T2)."""
        return self.distances(config)

    def own_distances(self, config: T5Config) -> BucketBias | None:
        """What a block adds of its own: nothing in T5."""
        return None

    def block(self, config: T5Config) -> Block:
        """One block."""
        rate, width, eps = config.dropout_rate, config.d_model, config.layer_norm_epsilon
        sizes: dict[str, Any] = {"head_width": config.d_kv, "bias": False, "dropout": rate, "scale": 1.0}
        crosses = config.add_cross_attention
        act, gated = config.hidden_act, config.is_gated
        network = FeedForward(width, config.d_ff, act=act, gated=gated, bias=False, dropout=rate)
        network.down = WideLinear(config.d_ff, width, bias=False)
        return ClampedBlock(
            MultiHeadAttention(width, config.num_heads, distance_embedding=self.own_distances(config), **sizes),
            network,
            [RMSNorm(width, eps) for _ in range(3 if crosses else 2)],
            cross_attention=CrossAttention(width, config.num_heads, **sizes) if crosses else None,
            norm_first=True,
            dropout=rate,
        )

    @property
    def longest(self) -> int | None:
        """None: distances have no end."""
        return None

    def init_weights(self, module: nn.Module | None = None) -> None:
        """Deviations by the width of what comes in (appendix of the paper's code); queries are as if scores were scaled."""
        super().init_weights(module)
        _init_t5(module, self.config)


def _init_t5(module: nn.Module | None, config: EncoderConfig) -> None:
    factor, width = config.initializer_factor, config.d_model
    if isinstance(module, TokenEmbeddings):
        nn.init.normal_(module.word_embeddings.weight, std=factor)
    elif isinstance(module, BucketBias):
        nn.init.normal_(module.weight, std=factor * width**-0.5)
    elif isinstance(module, MultiHeadAttention):
        inner = config.num_heads * config.d_kv
        nn.init.normal_(module.query.weight, std=factor * (width * config.d_kv) ** -0.5)
        for projection, fan in ((module.key, width), (module.value, width), (module.output, inner)):
            nn.init.normal_(projection.weight, std=factor * fan**-0.5)
    elif isinstance(module, FeedForward):
        for widening in (module.up, module.gate):
            if widening is not None:
                nn.init.normal_(widening.weight, std=factor * width**-0.5)
        nn.init.normal_(module.down.weight, std=factor * config.d_ff**-0.5)


class T5Model(EncoderDecoder):
    """Both halves.

    Args:
        config: sizes and rules.
    """

    config_class = T5Config
    base_model_prefix = "transformer"
    side_class = T5Side


class T5ForConditionalGeneration(pair_tasks.ConditionalGeneration, T5Model):  # type: ignore[misc]
    """T5 with a projection that scores the next token of the target."""

    def score(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V), scaled as the first version was trained (T4)."""
        return super().score(hidden * self.config.d_model**-0.5 if self.config.scale_decoder_outputs else hidden)


class T5ForSequenceClassification(pair_tasks.SequenceClassification, tasks.TaskModel):
    """T5 with a two-layer classifier on the end of the text."""

    body_class = cast("Any", T5Model)


class T5ForQuestionAnswering(pair_tasks.QuestionAnswering, T5Model):  # type: ignore[misc]
    """T5 with a head that scores every token as the first and as the last of the answer."""


class T5EncoderModel(EncoderOnly):
    """The left half alone.

    Args:
        config: of the pair.
    """

    config_class = T5Config
    base_model_prefix = "transformer"
    side_class = T5Side


class T5ForTokenClassification(tasks.TokenClassification):
    """The left half with a linear classifier on every token."""

    body_class = cast("Any", T5EncoderModel)
