"""ALBERT: BERT whose layers share their weights (Lan et al. 2020). What differs from `bert.py`:

layers are made of a few groups of blocks, run again and again; the tables are narrower than the model, with a projection
always; the feed-forward networks have no dropout; the head works at the width of the tables; and pre-training tells whether
two sentences were swapped (A1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from minitrans.layers.embeddings import Embeddings
from minitrans.layers.losses import TwoItems
from minitrans.layers.stack import Stack
from minitrans.models import language_tasks, tasks
from minitrans.models.backbone import Backbone, build_block, returned
from minitrans.models.config import SIZE, BertSizesConfig, EncoderConfig, Rule
from minitrans.models.outputs import SentenceOrderOutput


@dataclass(kw_only=True)
class AlbertConfig(BertSizesConfig):
    """The defaults are those of albert-base-v2; the meaning of the other fields stands in `config.py`."""

    model_type: ClassVar[str] = "albert"
    rules: ClassVar[tuple[Rule, ...]] = (
        *BertSizesConfig.rules,
        (("type_vocab_size", "num_hidden_groups", "inner_group_num"), *SIZE),
        (
            ("num_hidden_groups",), lambda groups, c: groups <= c.num_hidden_layers,
            lambda c: f"at most num_hidden_layers={c.num_hidden_layers}, or some would never run",
        ),
        (("pruned_heads",), lambda pruned, c: not pruned, "empty: layers share their heads; use head_mask"),
    )  # fmt: skip

    vocab_size: int = 30000
    embedding_size: int = 128  # width of the tables
    hidden_size: int = 768
    num_hidden_layers: int = 12  # how often a group runs
    num_hidden_groups: int = 1  # groups that have weights of their own
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    inner_group_num: int = 1  # blocks of a group
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1  # before every classifier
    max_position_embeddings: int = 512
    type_vocab_size: int = 2  # rows of the token-type table
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | None = 3

    @property
    def head_dropout(self) -> float:
        """The dropout before a classifier."""
        return self.classifier_dropout_prob


class AlbertModel(Backbone):
    """Embeddings with a projection, groups of post-norm blocks run L times in all, and a pooler on the first token.

    Args:
        config: sizes and rules.
        add_pooling_layer: whether to have the pooler.
    """

    config_class = AlbertConfig
    base_model_prefix = "albert"

    def build(self, config: EncoderConfig) -> None:
        """A1: layer i is group int(i / (L / groups)), all of whose blocks run in turn."""
        config = cast("AlbertConfig", config)
        self.embeddings = Embeddings(
            config.vocab_size,
            config.embedding_size,
            max_positions=config.max_position_embeddings,
            type_vocab_size=config.type_vocab_size,
            padding_idx=config.pad_token_id,
            eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
            project_to=config.hidden_size,  # A1: also where the widths are equal
        )
        inner = config.inner_group_num
        groups = [
            int(layer / (config.num_hidden_layers / config.num_hidden_groups))
            for layer in range(config.num_hidden_layers)
        ]
        self.encoder = Stack(
            (
                build_block(config, feed_forward_dropout=0.0) for _ in range(config.num_hidden_groups * inner)
            ),  # A1: no dropout
            order=(group * inner + number for group in groups for number in range(inner)),
        )


class AlbertForPreTraining(language_tasks.TwoLosses):
    """ALBERT with its two pre-training heads: masked tokens, and whether two sentences were swapped."""

    body_class = AlbertModel
    head_has_labels = True

    def build_head(self, config: EncoderConfig) -> None:
        """`lm_head`, `dropout` and `sop_classifier`."""
        if config.num_labels != 2:
            raise ValueError(f"two sentences have two orders: num_labels must be 2, got {config.num_labels}")
        super().build_head(config)
        self.dropout = nn.Dropout(config.head_dropout)
        self.sop_classifier = nn.Linear(config.hidden_size, 2)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        sentence_order_label: Tensor | None = None,
        *,
        num_items_in_batch: TwoItems | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> SentenceOrderOutput:
        """`labels` as in `MaskedLM`, `sentence_order_label` (B): 0 = in order (A1); the loss needs both."""
        body = self.run_body(
            labels, input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids,
            position_ids=position_ids, inputs_embeds=inputs_embeds, **options,
        )  # fmt: skip
        scores = self.lm_head(body.last_hidden_state)
        order = self.sop_classifier(self.dropout(body.pooler_output))  # (B, 2)
        loss = None
        if labels is not None and sentence_order_label is not None:
            loss = self.both_losses(body, scores, labels, order, sentence_order_label, num_items_in_batch)
        output = SentenceOrderOutput(loss, tasks.pad_scores(body, scores), order, **body.by_layer)
        return returned(output, return_dict, self.config)


class AlbertForMaskedLM(language_tasks.MaskedLM):
    """ALBERT with a head that scores the vocabulary at every token."""

    body_class = AlbertModel


class AlbertForSequenceClassification(tasks.SequenceClassification):
    """ALBERT with a linear classifier on the pooled first token."""

    body_class = AlbertModel


class AlbertForTokenClassification(tasks.TokenClassification):
    """ALBERT with a linear classifier on every token."""

    body_class = AlbertModel


class AlbertForQuestionAnswering(tasks.QuestionAnswering):
    """ALBERT with a head that scores every token as the first and as the last of the answer."""

    body_class = AlbertModel


class AlbertForMultipleChoice(tasks.MultipleChoice):
    """ALBERT with a head that scores each of several texts."""

    body_class = AlbertModel
