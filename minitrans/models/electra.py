"""ELECTRA: a discriminator that tells which tokens a small generator replaced (Clark et al. 2020). What differs from `bert.py`:

the embeddings may be narrower than the model, with a projection between, and there is no pooler; the generator's head works
at the width of the embeddings, always with the exact gelu; sequences are classified by two layers with a gelu (E1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from minitrans.errors import NotSupportedError
from minitrans.layers.activations import activation
from minitrans.layers.embeddings import Embeddings
from minitrans.layers.heads import ClassificationHead
from minitrans.layers.losses import Items, replaced_token_loss
from minitrans.layers.stack import Stack
from minitrans.models import language_tasks, tasks
from minitrans.models.backbone import Backbone, EncoderOutput, build_block, returned
from minitrans.models.config import BertLikeConfig, EncoderConfig, Rule
from minitrans.models.outputs import LogitsOutput

# (B, T, D) -> (B, D), padding included (E1)
SUMMARIES: dict[str, Callable[[Tensor], Tensor]] = {
    "first": lambda hidden: hidden[:, 0],
    "last": lambda hidden: hidden[:, -1],
    "mean": lambda hidden: hidden.mean(dim=1),
    "cls_index": lambda hidden: hidden[:, -1],  # the reference's forward is given no index, and takes the last
}
SUMMARY = (lambda kind, c: kind in SUMMARIES, f"one of {', '.join(SUMMARIES)}")


@dataclass(kw_only=True)
class ElectraConfig(BertLikeConfig):
    """The defaults are those of electra-small-discriminator; the meaning of the other fields stands in `config.py`."""

    model_type: ClassVar[str] = "electra"
    rules: ClassVar[tuple[Rule, ...]] = (
        *BertLikeConfig.rules,
        (("summary_type",), *SUMMARY),
    )

    vocab_size: int = 30522
    embedding_size: int = 128  # width of the tables
    hidden_size: int = 256
    num_hidden_layers: int = 12
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    summary_type: str = "first"  # what stands for a text of multiple choice, see SUMMARIES
    summary_first_dropout: float = 0.0  # on it
    summary_use_proj: bool = True  # whether it goes through a layer
    summary_activation: str = "gelu"  # of that layer; "" = none
    summary_last_dropout: float = 0.1  # after it

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.summary_activation:
            activation(self.summary_activation)


class ElectraModel(Backbone):
    """Embeddings with a projection, and L post-norm blocks.

    Args:
        config: sizes and rules.
    """

    config_class = ElectraConfig
    base_model_prefix = "electra"
    has_pooler = False  # E1

    def build(self, config: EncoderConfig) -> None:
        """As BERT; the projection is there only where the widths differ (E1)."""
        self.embeddings = Embeddings(
            config.vocab_size,
            config.embedding_size,
            max_positions=config.max_position_embeddings,
            type_vocab_size=config.type_vocab_size,
            padding_idx=config.pad_token_id,
            eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
            project_to=config.hidden_size if config.hidden_size != config.embedding_size else None,
        )
        self.encoder = Stack(build_block(config) for _ in range(config.num_hidden_layers))


class DiscriminatorHead(nn.Module):
    """dense_prediction(act(dense(h))): one score a token, positive = it was replaced (E1).

    Args:
        width: D.
        act: activation name.
    """

    def __init__(self, width: int, act: str) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.act = activation(act)
        self.dense_prediction = nn.Linear(width, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (...)."""
        scores: Tensor = self.dense_prediction(self.act(self.dense(hidden)))
        return scores.squeeze(-1)


class ElectraForPreTraining(tasks.TaskModel):
    """The discriminator: which tokens were replaced."""

    body_class = ElectraModel

    def build_head(self, config: EncoderConfig) -> None:
        """`discriminator_predictions`."""
        self.discriminator_predictions = DiscriminatorHead(config.hidden_size, config.hidden_act)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        num_items_in_batch: Items = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> LogitsOutput:
        """`labels` (B, T): 1 = replaced, 0 = original; padding does not count."""
        body = self.run_body(
            labels, input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids,
            position_ids=position_ids, inputs_embeds=inputs_embeds, **options,
        )  # fmt: skip
        logits = tasks.pad_scores(body, self.discriminator_predictions(body.last_hidden_state))  # (B, T)
        loss = None
        if labels is not None:
            real = None if attention_mask is None else attention_mask == 1
            loss = replaced_token_loss(logits, labels, real, num_items_in_batch)
        return returned(LogitsOutput(loss, logits, **body.by_layer), return_dict, self.config)


class ElectraForMaskedLM(language_tasks.MaskedLM):
    """The generator: scores of the vocabulary at every token."""

    body_class = ElectraModel
    head_act = "gelu"  # E1


class ElectraForCausalLM(language_tasks.CausalLM):
    """ELECTRA as a decoder with the generator's head on the next token."""

    body_class = ElectraModel
    head_act = "gelu"  # E1


class ElectraForSequenceClassification(tasks.SequenceClassification):
    """ELECTRA with a two-layer classifier on the first token."""

    body_class = ElectraModel
    needs_pooler = False

    def build_head(self, config: EncoderConfig) -> None:
        """`classifier`, with dropout inside, and a gelu where RoBERTa has a tanh (E1)."""
        dropout = config.head_dropout
        self.classifier = ClassificationHead(config.hidden_size, config.num_labels, dropout=dropout, act="gelu")

    def score(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, C)."""
        scores: Tensor = self.classifier(hidden)
        return scores


class ElectraForTokenClassification(tasks.TokenClassification):
    """ELECTRA with a linear classifier on every token."""

    body_class = ElectraModel


class ElectraForQuestionAnswering(tasks.QuestionAnswering):
    """ELECTRA with a head that scores every token as the first and as the last of the answer."""

    body_class = ElectraModel


class SummarisedChoice(tasks.MultipleChoice):
    """A score of what stands for each of several texts, see `ElectraConfig`."""

    needs_pooler = False

    def build_head(self, config: EncoderConfig) -> None:
        """`summary`, `dropout` and `classifier` (E1)."""
        config = cast("ElectraConfig", config)
        self.first_dropout = nn.Dropout(config.summary_first_dropout)
        self.summary = nn.Linear(config.hidden_size, config.hidden_size) if config.summary_use_proj else None
        self.act = activation(config.summary_activation or "linear")
        self.dropout = nn.Dropout(config.summary_last_dropout)
        self.classifier = nn.Linear(config.hidden_size, 1)

    def run_body(self, labels: Tensor | None, /, **given: Any) -> EncoderOutput:
        """With its padding, where the summary looks at it. Raises NotSupportedError where that shall be left out."""
        kind = cast("ElectraConfig", self.config).summary_type
        if kind != "first":
            if given.get("layout") is not None or (given.get("padding") or self.padding) == "remove":
                raise NotSupportedError(
                    f"a batch without its padding does not go with summary_type={kind!r}, which looks at it; use padding='keep'"
                )
            given["padding"] = "keep"
        return super().run_body(labels, **given)

    def score(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        """(B · choices, T, D) -> (B · choices, 1)."""
        text = self.first_dropout(SUMMARIES[cast("ElectraConfig", self.config).summary_type](hidden))
        scores: Tensor = self.classifier(self.dropout(self.act(text if self.summary is None else self.summary(text))))
        return scores


class ElectraForMultipleChoice(SummarisedChoice):
    """ELECTRA with a two-layer score of the first token of each of several texts."""

    body_class = ElectraModel
