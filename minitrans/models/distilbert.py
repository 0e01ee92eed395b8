"""DistilBERT: half of BERT's layers, taught by BERT (Sanh et al. 2019). What differs from `bert.py`:

no token types and no pooler, no dropout on the output of the attention, norms whose eps is fixed (D1); the first token goes
through a layer with a ReLU where BERT has the pooler (D2); positions may begin as sinusoids (D3). The fields have other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from minitrans.layers.embeddings import Embeddings
from minitrans.layers.positions import sinusoidal_table
from minitrans.layers.stack import Stack
from minitrans.models import language_tasks, tasks
from minitrans.models.arguments import in_order
from minitrans.models.backbone import Backbone, build_block
from minitrans.models.config import EncoderConfig

ORDER = "input_ids attention_mask inputs_embeds {}position_ids"  # of the reference's forwards, with labels between


@dataclass(kw_only=True)
class DistilBertConfig(EncoderConfig):
    """The defaults are those of distilbert-base-uncased."""

    model_type: ClassVar[str] = "distilbert"
    own_names: ClassVar[Mapping[str, str]] = {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    }

    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
    }  # fmt: skip

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    dim: int = 768  # D
    n_layers: int = 6  # L
    n_heads: int = 12  # H
    hidden_dim: int = 3072  # F
    activation: str = "gelu"  # of the feed-forward networks
    dropout: float = 0.1  # on embeddings, and on the output of the feed-forward networks (D1)
    attention_dropout: float = 0.1  # on attention probabilities
    qa_dropout: float = 0.1  # before the scores of question answering
    seq_classif_dropout: float = 0.2  # before the classifier of sequences and of choices
    sinusoidal_pos_embds: bool = False  # fresh positions are sinusoids (D3)
    layer_norm_eps: ClassVar[float] = 1e-12  # D1: no field, every checkpoint has the same


class DistilBertModel(Backbone):
    """Embeddings and L post-norm blocks.

    Args:
        config: sizes and rules.
    """

    config_class = DistilBertConfig
    base_model_prefix = "distilbert"
    has_pooler = False  # D1
    forward = in_order(Backbone, ORDER.format(""))

    def build(self, config: EncoderConfig) -> None:
        """As BERT, without token types."""
        self.embeddings = Embeddings(
            config.vocab_size,
            config.hidden_size,
            max_positions=config.max_position_embeddings,
            padding_idx=config.pad_token_id,
            eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        blocks = (
            build_block(
                config, dropout=0.0, feed_forward_dropout=config.hidden_dropout_prob
            )  # D1: none after the attention
            for _ in range(config.num_hidden_layers)
        )
        self.encoder = Stack(blocks)

    def init_weights(self, module: nn.Module | None = None) -> None:
        """D3: sinusoids are only where the position table begins; it is trained and stored like any other."""
        super().init_weights(module)
        if isinstance(module, Embeddings) and cast("DistilBertConfig", self.config).sinusoidal_pos_embds:
            table = cast("nn.Embedding", module.position_embeddings).weight
            with torch.no_grad():
                table.copy_(sinusoidal_table(*table.shape))


class _FirstTokenHead(nn.Module):
    """What sequences and choices have in common: D2's scores of the first token."""

    dropout: nn.Dropout
    classifier: nn.Module

    def build_scores(self, config: EncoderConfig, num_scores: int) -> None:
        """`pre_classifier`, `dropout` and `classifier`."""
        config = cast("DistilBertConfig", config)
        self.pre_classifier = nn.Linear(config.dim, config.dim)
        self.dropout = nn.Dropout(config.seq_classif_dropout)
        self.classifier = nn.Linear(config.dim, num_scores)

    def score(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, C)."""
        scores: Tensor = self.classifier(self.dropout(torch.relu(self.pre_classifier(hidden[:, 0]))))  # D2
        return scores


class DistilBertForMaskedLM(language_tasks.MaskedLM):
    """DistilBERT with a head that scores the vocabulary at every token."""

    body_class = DistilBertModel
    forward = in_order(language_tasks.MaskedLM, ORDER.format("labels "))


class DistilBertForSequenceClassification(_FirstTokenHead, tasks.SequenceClassification):
    """DistilBERT with a two-layer classifier on the first token (D2)."""

    body_class = DistilBertModel
    forward = in_order(tasks.SequenceClassification, ORDER.format("labels "))
    needs_pooler = False

    def build_head(self, config: EncoderConfig) -> None:
        """One score a class."""
        self.build_scores(config, config.num_labels)


class DistilBertForTokenClassification(tasks.TokenClassification):
    """DistilBERT with a linear classifier on every token."""

    body_class = DistilBertModel
    forward = in_order(tasks.TokenClassification, ORDER.format("labels "))


class DistilBertForQuestionAnswering(tasks.QuestionAnswering):
    """DistilBERT with a head that scores every token as the first and as the last of the answer."""

    body_class = DistilBertModel
    forward = in_order(tasks.QuestionAnswering, ORDER.format("start_positions end_positions "))

    def dropout_of(self, config: EncoderConfig) -> float:
        """D2: unlike BERT, there is one."""
        return cast("DistilBertConfig", config).qa_dropout


class DistilBertForMultipleChoice(_FirstTokenHead, tasks.MultipleChoice):
    """DistilBERT with a two-layer score of the first token of each of several texts (D2)."""

    body_class = DistilBertModel
    forward = in_order(tasks.MultipleChoice, ORDER.format("labels "))
    needs_pooler = False

    def build_head(self, config: EncoderConfig) -> None:
        """One score a text."""
        self.build_scores(config, 1)
