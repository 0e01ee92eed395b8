"""RoBERTa: BERT trained longer, on more text, without sentence pairs (Liu et al. 2019). What differs from `bert.py`:

positions count from padding_idx + 1 and skip padding (R1), the language-modelling head always uses the exact gelu (R4),
sequences are classified by a two-layer head instead of the pooler (R5). XLM-RoBERTa and CamemBERT share the architecture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

from torch import Tensor

from minitrans.layers.embeddings import Embeddings
from minitrans.layers.heads import ClassificationHead
from minitrans.layers.stack import Stack
from minitrans.models import language_tasks, tasks
from minitrans.models.arguments import in_order
from minitrans.models.backbone import Backbone, build_block
from minitrans.models.config import BertLikeConfig, EncoderConfig, Rule


@dataclass(kw_only=True)
class RobertaArchitectureConfig(BertLikeConfig):
    """What the published base models of the three families share (R3); `config.py` says what each field means."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *BertLikeConfig.rules,
        (("pad_token_id",), lambda pad, c: pad is not None, "a number, from which positions are counted"),
    )
    steering: ClassVar[frozenset[str]] = BertLikeConfig.steering - {"pad_token_id"}  # R1: positions are counted from it

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 514
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | None = 2


@dataclass(kw_only=True)
class RobertaConfig(RobertaArchitectureConfig):
    """The defaults are those of roberta-base."""

    model_type: ClassVar[str] = "roberta"

    vocab_size: int = 50265


class RobertaBody(Backbone):
    """The architecture of RoBERTa, XLM-RoBERTa and CamemBERT (R6).

    Args:
        config: sizes and rules.
        add_pooling_layer: whether to have the pooler.
    """

    base_model_prefix = "roberta"

    def build(self, config: EncoderConfig) -> None:
        """As BERT, with a position table that knows padding."""
        self.padding_idx = cast("int", config.pad_token_id)
        self.embeddings = Embeddings(
            config.vocab_size,
            config.hidden_size,
            max_positions=config.max_position_embeddings,
            type_vocab_size=config.type_vocab_size,
            padding_idx=self.padding_idx,
            position_padding_idx=self.padding_idx,
            eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        self.encoder = self.stack(config)

    def stack(self, config: EncoderConfig) -> Stack:
        """L post-norm blocks."""
        return Stack(build_block(config) for _ in range(config.num_hidden_layers))

    @property
    def longest(self) -> int:
        """R2: the first rows of the table are nobody's."""
        return int(self.config.max_position_embeddings) - self.padding_idx - 1

    def positions(self, tokens: Tensor, past_length: int) -> Tensor:
        """R1: padding_idx + 1, + 2, ... over the tokens that are not padding, which gets padding_idx itself.

        Vectors cannot be told from padding: they are counted all.
        """
        if tokens.is_floating_point():
            return super().positions(tokens, past_length + self.padding_idx + 1)
        is_token = (tokens != self.padding_idx).long()
        return (is_token.cumsum(dim=1) + past_length) * is_token + self.padding_idx


class RobertaModel(RobertaBody):
    """Embeddings, L post-norm blocks, and a pooler on the first token."""

    config_class = RobertaConfig


class MaskedLM(language_tasks.MaskedLMWithMemory):
    """Scores of the vocabulary at every token."""

    head_act = "gelu"  # R4


class CausalLM(language_tasks.CausalLM):
    """Scores of the next token."""

    head_act = "gelu"  # R4


class SequenceClassification(tasks.SequenceClassification):
    """A two-layer classifier on the first token (R5)."""

    needs_pooler = False

    def build_head(self, config: EncoderConfig) -> None:
        """`classifier`, with dropout inside."""
        self.classifier = ClassificationHead(config.hidden_size, config.num_labels, dropout=config.head_dropout)

    def score(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, C)."""
        scores: Tensor = self.classifier(hidden)
        return scores


class MultipleChoice(tasks.MultipleChoice):
    """A score for each of several texts, with BERT's hidden dropout whatever `classifier_dropout` says."""

    forward = in_order(
        tasks.MultipleChoice, "input_ids token_type_ids attention_mask labels position_ids inputs_embeds"
    )

    def dropout_of(self, config: EncoderConfig) -> float:
        """The reference ignores `classifier_dropout` here."""
        return float(config.hidden_dropout_prob)


class RobertaForMaskedLM(MaskedLM):
    """RoBERTa with a head that scores the vocabulary at every token."""

    body_class = RobertaModel


class RobertaForCausalLM(CausalLM):
    """RoBERTa as a decoder with a head that scores the next token."""

    body_class = RobertaModel


class RobertaForSequenceClassification(SequenceClassification):
    """RoBERTa with a two-layer classifier on the first token."""

    body_class = RobertaModel


class RobertaForTokenClassification(tasks.TokenClassification):
    """RoBERTa with a linear classifier on every token."""

    body_class = RobertaModel


class RobertaForQuestionAnswering(tasks.QuestionAnswering):
    """RoBERTa with a head that scores every token as the first and as the last of the answer."""

    body_class = RobertaModel


class RobertaForMultipleChoice(MultipleChoice):
    """RoBERTa with a head that scores each of several texts."""

    body_class = RobertaModel
