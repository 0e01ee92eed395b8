"""BERT: a stack of Transformer encoder blocks over tokens that see both sides (Devlin et al. 2019).

Read on in `backbone.py` (the forward), `layers/stack.py`, `layers/block.py`, `layers/multi_head_attention.py`,
`attention/dispatch.py` and `attention/eager.py`, where the softmax is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minitrans.layers.embeddings import Embeddings
from minitrans.layers.stack import Stack
from minitrans.models import language_tasks, tasks
from minitrans.models.backbone import Backbone, build_block
from minitrans.models.config import BertLikeConfig, EncoderConfig


@dataclass(kw_only=True)
class BertConfig(BertLikeConfig):
    """The defaults are those of bert-base-uncased; the meaning of each field stands in `config.py`."""

    model_type: ClassVar[str] = "bert"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12  # B1
    pad_token_id: int | None = 0


class BertModel(Backbone):
    """Embeddings, L post-norm blocks, and a pooler on the first token.

    Args:
        config: sizes and rules.
        add_pooling_layer: whether to have the pooler (B2).
    """

    config_class = BertConfig
    base_model_prefix = "bert"

    def build(self, config: EncoderConfig) -> None:
        """The modules of figure 1 of the paper, bottom up; the pooler is added by `Backbone`."""
        self.embeddings = Embeddings(
            config.vocab_size,
            config.hidden_size,
            max_positions=config.max_position_embeddings,
            type_vocab_size=config.type_vocab_size,
            padding_idx=config.pad_token_id,
            eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        self.encoder = Stack(build_block(config) for _ in range(config.num_hidden_layers))


class BertForPreTraining(language_tasks.PreTraining):
    """BERT with its two pre-training heads: masked tokens, and whether the second sentence follows the first."""

    body_class = BertModel


class BertForMaskedLM(language_tasks.MaskedLMWithMemory):
    """BERT with a head that scores the vocabulary at every token."""

    body_class = BertModel


class BertLMHeadModel(language_tasks.CausalLM):
    """BERT as a decoder (B7) with a head that scores the next token."""

    body_class = BertModel


class BertForNextSentencePrediction(language_tasks.NextSentencePrediction):
    """BERT with a head that tells whether the second sentence follows the first."""

    body_class = BertModel


class BertForSequenceClassification(tasks.SequenceClassification):
    """BERT with a linear classifier on the pooled first token."""

    body_class = BertModel


class BertForTokenClassification(tasks.TokenClassification):
    """BERT with a linear classifier on every token."""

    body_class = BertModel


class BertForQuestionAnswering(tasks.QuestionAnswering):
    """BERT with a head that scores every token as the first and as the last of the answer."""

    body_class = BertModel


class BertForMultipleChoice(tasks.MultipleChoice):
    """BERT with a head that scores each of several texts."""

    body_class = BertModel
