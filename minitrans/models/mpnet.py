"""MPNet: BERT that predicts masked tokens in permuted order (Song et al. 2020). What differs from `bert.py`:

no token types; positions as RoBERTa, with padding 1 whatever the configuration says; and a learned score for each distance
between two tokens, computed by the encoder for all its layers, as in T5 (P1). Heads as RoBERTa's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from minitrans.attention.bias import AttentionBias, RelativeBuckets, SummedBias
from minitrans.layers.embeddings import Embeddings
from minitrans.layers.encoder_block import EncoderBlock
from minitrans.models import roberta, tasks
from minitrans.models.config import BertSizesConfig, EncoderConfig
from minitrans.models.encoder import Encoder, EncoderModel, Stacked, block
from minitrans.models.inputs import check_length

PADDING = 1  # P1: not config.pad_token_id
BUCKETS = 32  # P1: not config.relative_attention_num_buckets, which only gives the table its rows


@dataclass(frozen=True, kw_only=True)
class MPNetConfig(BertSizesConfig):
    """The defaults are those of mpnet-base; the meaning of the other fields stands in `config.py`."""

    model_type: ClassVar[str] = "mpnet"

    vocab_size: int = 30527
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 514
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | None = 2
    relative_attention_num_buckets: int = 32  # rows of the table of distances

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relative_attention_num_buckets < BUCKETS:
            raise ValueError(
                f"relative_attention_num_buckets must be at least {BUCKETS}, as many as distances fall into, "
                f"got {self.relative_attention_num_buckets}"
            )
        if self.vocab_size <= PADDING or self.max_position_embeddings <= PADDING + 1:
            raise ValueError(
                f"MPNet keeps rows 0 and {PADDING} of its tables: vocab_size and max_position_embeddings must be more, "
                f"got {self.vocab_size} and {self.max_position_embeddings}"
            )


class DistanceEncoder(Encoder):
    """A stack of blocks that share a bias of distances (P1).

    Args:
        blocks: L encoder blocks.
        buckets: rows of the table.
        heads: H.
    """

    def __init__(self, blocks: Iterable[EncoderBlock], buckets: int, heads: int) -> None:
        super().__init__(blocks)
        self.relative_attention_bias = nn.Embedding(buckets, heads)

    def forward(self, x: Tensor, *, bias: AttentionBias | None = None, **options: Any) -> Stacked:
        """(B, T, D) -> (B, T, D), or (N, D) -> (N, D); the arguments are those of `Encoder.forward`."""
        distances = self.distances()
        return super().forward(x, bias=distances if bias is None else SummedBias(distances, bias), **options)

    def distances(self) -> RelativeBuckets:
        """The bias that every block adds to its scores."""
        return RelativeBuckets(self.relative_attention_bias.weight[:BUCKETS])


class MPNetModel(EncoderModel):
    """Embeddings, L post-norm blocks with a bias of distances, and a pooler on the first token.

    Args:
        config: sizes and rules.
        add_pooling_layer: whether to have the pooler.
    """

    config_class = MPNetConfig
    base_model_prefix = "mpnet"

    def build(self, config: EncoderConfig) -> None:
        """As RoBERTa, without token types, with a table of distances."""
        assert isinstance(config, MPNetConfig)
        self.embeddings = Embeddings(
            config.vocab_size,
            config.hidden_size,
            max_positions=config.max_position_embeddings,
            padding_idx=PADDING,
            position_padding_idx=PADDING,
            eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        blocks = (block(config) for _ in range(config.num_hidden_layers))
        self.encoder = DistanceEncoder(blocks, config.relative_attention_num_buckets, config.num_attention_heads)

    def positions(self, tokens: Tensor, past_length: int) -> Tensor:
        """R1, with P1's padding."""
        check_length(past_length + tokens.shape[1], self.config.max_position_embeddings - PADDING - 1)
        return roberta.positions_after_padding(tokens, past_length, PADDING)


class MPNetForMaskedLM(roberta.MaskedLM):
    """MPNet with a head that scores the vocabulary at every token."""

    body_class = MPNetModel


class MPNetForSequenceClassification(roberta.SequenceClassification):
    """MPNet with a two-layer classifier on the first token."""

    body_class = MPNetModel


class MPNetForTokenClassification(tasks.TokenClassification):
    """MPNet with a linear classifier on every token."""

    body_class = MPNetModel


class MPNetForQuestionAnswering(tasks.QuestionAnswering):
    """MPNet with a head that scores every token as the first and as the last of the answer."""

    body_class = MPNetModel


class MPNetForMultipleChoice(tasks.MultipleChoice):
    """MPNet with a head that scores each of several texts."""

    body_class = MPNetModel
