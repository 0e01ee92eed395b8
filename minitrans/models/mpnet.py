"""MPNet: BERT that predicts masked tokens in permuted order (Song et al. 2020). What differs from `bert.py`:

no token types; positions as RoBERTa, with padding 1 whatever the configuration says; and a learned score for each distance
between two tokens, computed by the encoder for all its layers, as in T5 (P1). Heads as RoBERTa's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

from minitrans.layers.embeddings import Embeddings
from minitrans.layers.position_bias import BucketBias
from minitrans.layers.stack import Stack
from minitrans.models import language_tasks, roberta, tasks
from minitrans.models.arguments import in_order
from minitrans.models.backbone import Backbone, build_block
from minitrans.models.config import BertSizesConfig, EncoderConfig, Rule

PADDING = 1  # P1: not config.pad_token_id
ORDER = "input_ids attention_mask position_ids inputs_embeds {}output_attentions output_hidden_states return_dict"
BUCKETS = 32  # P1: not config.relative_attention_num_buckets, which only gives the table its rows


@dataclass(kw_only=True)
class MPNetConfig(BertSizesConfig):
    """The defaults are those of mpnet-base; the meaning of the other fields stands in `config.py`."""

    model_type: ClassVar[str] = "mpnet"
    rules: ClassVar[tuple[Rule, ...]] = (
        *BertSizesConfig.rules,
        (("relative_attention_num_buckets",), lambda rows, c: rows >= BUCKETS, f"at least {BUCKETS}, one a kind of distance"),
        (("vocab_size",), lambda rows, c: rows > PADDING, f"more than {PADDING}, the row of padding"),
        (("pruned_heads",), lambda pruned, c: not pruned, "empty: layers share a table with a column a head; use head_mask"),
        (("max_position_embeddings",), lambda rows, c: rows > PADDING + 1, f"more than {PADDING + 1}: they begin after it"),
    )  # fmt: skip

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


class MPNetModel(roberta.RobertaBody):
    """Embeddings, L post-norm blocks with a bias of distances, and a pooler on the first token.

    Args:
        config: sizes and rules.
        add_pooling_layer: whether to have the pooler.
    """

    config_class = MPNetConfig
    base_model_prefix = "mpnet"
    forward = in_order(Backbone, ORDER.format(""))

    def build(self, config: EncoderConfig) -> None:
        """As RoBERTa, without token types, with a table of distances."""
        config = cast("MPNetConfig", config)
        self.padding_idx = PADDING
        self.embeddings = Embeddings(
            config.vocab_size,
            config.hidden_size,
            max_positions=config.max_position_embeddings,
            padding_idx=self.padding_idx,
            position_padding_idx=self.padding_idx,
            eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        rows, heads = config.relative_attention_num_buckets, config.num_attention_heads
        distances = BucketBias(rows, heads, buckets=BUCKETS)
        self.encoder = Stack((build_block(config) for _ in range(config.num_hidden_layers)), position_bias=distances)


class MPNetForMaskedLM(roberta.MaskedLM):
    """MPNet with a head that scores the vocabulary at every token."""

    body_class = MPNetModel
    forward = in_order(language_tasks.MaskedLM, ORDER.format("labels "))


class MPNetForSequenceClassification(roberta.SequenceClassification):
    """MPNet with a two-layer classifier on the first token."""

    body_class = MPNetModel
    forward = in_order(roberta.SequenceClassification, ORDER.format("labels "))


class MPNetForTokenClassification(tasks.TokenClassification):
    """MPNet with a linear classifier on every token."""

    body_class = MPNetModel
    forward = in_order(tasks.TokenClassification, ORDER.format("labels "))


class MPNetForQuestionAnswering(tasks.QuestionAnswering):
    """MPNet with a head that scores every token as the first and as the last of the answer."""

    body_class = MPNetModel
    forward = in_order(tasks.QuestionAnswering, ORDER.format("start_positions end_positions "))


class MPNetForMultipleChoice(tasks.MultipleChoice):
    """MPNet with a head that scores each of several texts."""

    body_class = MPNetModel
    forward = in_order(tasks.MultipleChoice, ORDER.format("labels "))
