"""A body with a head and its loss, one class a task; families name their body and what differs."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minitrans.attention.mask import has_values
from minitrans.layers.losses import IGNORED, Items, TwoItems, check_shape, classification_loss, span_loss, token_loss
from minitrans.models.backbone import Backbone, EncoderOutput, returned
from minitrans.models.config import EncoderConfig
from minitrans.models.outputs import LogitsOutput, SpanOutput
from minitrans.models.pretrained import PreTrainedModel


class TaskModel(PreTrainedModel):
    """A body under the family's prefix (`model.bert`), and what `build_head` puts on it.

    The arguments of every forward that are not explained there, and `options`, are those of `Backbone.forward`. With
    `num_items_in_batch` a loss is its sum over the labels, divided by that number: the gradients of the parts of a batch add
    up to those of the whole where each is given the number of labels in all parts.
    """

    body_class: ClassVar[type[Backbone]]
    needs_pooler: ClassVar[bool] = False  # B2
    needs_grid: ClassVar[bool] = False  # the head works on (B, T, D), not token by token

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "body_class" in cls.__dict__:
            cls.config_class = cls.body_class.config_class
            if "base_model_prefix" not in cls.__dict__:
                cls.base_model_prefix = cls.body_class.base_model_prefix

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        body = self.body_class(config, add_pooling_layer=self.needs_pooler)
        body.share_config(self.config)
        setattr(self, self.base_model_prefix, body)
        self.build_head(config)
        self.finish_init()

    @property
    def padding(self) -> str:
        """What becomes of padding: the body's."""
        return self.base_model.padding

    @padding.setter
    def padding(self, padding: str) -> None:
        self.base_model.padding = padding

    def build_head(self, config: EncoderConfig) -> None:
        """Adds the modules above the body."""
        raise NotImplementedError

    def run_body(self, labels: Tensor | None, /, **given: Any) -> EncoderOutput:
        """The body's output. With labels, "auto" keeps the padding: a loss may count it (B5)."""
        if labels is not None and (given.get("padding") or self.padding) == "auto":
            given["padding"] = "keep"
        output: EncoderOutput = self.base_model(unpack=self.needs_grid, return_dict=True, **given)
        return output


class LabelledModel(TaskModel):
    """A model whose head looks at what the body returns, and learns from one kind of labels."""

    def head(self, body: EncoderOutput, labels: Tensor | None, items: Items) -> LogitsOutput:
        """Scores, and their loss where there are labels: over so many `items`, or over all that are given."""
        raise NotImplementedError

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
        """`labels`: see `head`; the other arguments: see `Backbone.forward`."""
        body = self.run_body(
            labels, input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids,
            position_ids=position_ids, inputs_embeds=inputs_embeds, **options,
        )  # fmt: skip
        return returned(self.head(body, labels, num_items_in_batch), return_dict, self.config)


class SequenceClassification(LabelledModel):
    """A class, several, or a number for a whole text (B5)."""

    head_has_labels = True
    needs_pooler = True
    needs_grid = True

    def build_head(self, config: EncoderConfig) -> None:
        """`dropout` and `classifier`."""
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier: nn.Module = nn.Linear(config.hidden_size, config.num_labels)

    def score(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        """(B, T, D) and (B, D) -> (B, C)."""
        scores: Tensor = self.classifier(self.dropout(pooled))
        return scores

    def head(self, body: EncoderOutput, labels: Tensor | None, items: Items) -> LogitsOutput:
        """`labels`: see `classification_loss`."""
        logits = self.score(body.last_hidden_state, body.pooler_output)  # (B, C)
        loss = None if labels is None else self.loss(logits, labels, items)
        return LogitsOutput(loss, logits, **body.by_layer)

    def loss(self, logits: Tensor, labels: Tensor, items: Items) -> Tensor:
        """See `classification_loss`."""
        return classification_loss(logits, labels, self.config.problem_type, items)


class TokenClassification(LabelledModel):
    """A class for every token."""

    head_has_labels = True

    def build_head(self, config: EncoderConfig) -> None:
        """`dropout` and `classifier`."""
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def head(self, body: EncoderOutput, labels: Tensor | None, items: Items) -> LogitsOutput:
        """`labels` (B, T): class ids, -100 where none is to be learnt; padding counts unless it has -100 (B5)."""
        scores = self.classifier(self.dropout(body.last_hidden_state))
        loss = None if labels is None else token_loss(scores, unpadded_labels(body, labels), items)
        return LogitsOutput(loss, pad_scores(body, scores), **body.by_layer)  # logits (B, T, C)


class QuestionAnswering(TaskModel):
    """The span of the input that answers a question (Devlin et al. 2019, section 4.2)."""

    head_has_labels = True

    def build_head(self, config: EncoderConfig) -> None:
        """`qa_outputs`: one score for a first token, one for a last."""
        if config.num_labels != 2:
            raise ValueError(f"an answer has a first and a last token: num_labels must be 2, got {config.num_labels}")
        self.dropout = nn.Dropout(self.dropout_of(config))
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

    def dropout_of(self, config: EncoderConfig) -> float:
        """Before the scores: none (B5)."""
        return 0.0

    def score(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., 2)."""
        scores: Tensor = self.qa_outputs(self.dropout(hidden))
        return scores

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        *,
        num_items_in_batch: Items | TwoItems = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> SpanOutput:
        """`start_positions`, `end_positions` (B): see `span_loss`; the loss needs both."""
        body = self.run_body(
            start_positions, input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids,
            position_ids=position_ids, inputs_embeds=inputs_embeds, **options,
        )  # fmt: skip
        scores = self.score(body.last_hidden_state)
        start, end = pad_scores(body, scores).unbind(dim=-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            lowest = pad_scores(
                body, scores, fill=torch.finfo(scores.dtype).min
            )  # padding that was left out is no candidate
            loss = span_loss(lowest[..., 0], lowest[..., 1], start_positions, end_positions, num_items_in_batch)
        return returned(SpanOutput(loss, start, end, **body.by_layer), return_dict, self.config)


class MultipleChoice(TaskModel):
    """A score for each of several texts, of which one is right; inputs are (B, choices, T) (B5)."""

    needs_pooler = True
    needs_grid = True

    def build_head(self, config: EncoderConfig) -> None:
        """`dropout` and `classifier`."""
        self.dropout = nn.Dropout(self.dropout_of(config))
        self.classifier: nn.Module = nn.Linear(config.hidden_size, 1)

    def score(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        """(B · choices, T, D) and (B · choices, D) -> (B · choices, 1)."""
        scores: Tensor = self.classifier(self.dropout(pooled))
        return scores

    def dropout_of(self, config: EncoderConfig) -> float:
        """Before the classifier."""
        return config.head_dropout

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
        """`labels` (B): the number of the right text."""
        given = inputs_embeds if input_ids is None else input_ids
        if given is not None and given.dim() != (4 if input_ids is None else 3):
            raise ValueError(f"multiple choice needs (B, choices, T) inputs, got {tuple(given.shape)}")
        choices = 1 if given is None else given.shape[1]
        options = {**options, "global_attention_mask": _merge(options.get("global_attention_mask"))}
        body = self.run_body(
            labels, input_ids=_merge(input_ids), attention_mask=_merge(attention_mask), position_ids=_merge(position_ids),
            token_type_ids=_merge(token_type_ids), inputs_embeds=_merge(inputs_embeds), **options,
        )  # fmt: skip
        logits = self.score(body.last_hidden_state, body.pooler_output).view(-1, choices)  # (B, choices)
        loss = None if labels is None else token_loss(logits, labels.flatten(), num_items_in_batch)
        return returned(LogitsOutput(loss, logits, **body.by_layer), return_dict, self.config)


def pad_scores(body: EncoderOutput, scores: Tensor, fill: float = 0.0) -> Tensor:
    """Scores of tokens where they belong: (N, C) -> (B, T, C) with `fill` at the padding that the body left out."""
    return scores if body.packing is None else body.packing.unpack(scores, fill)


def unpadded_labels(body: EncoderOutput, labels: Tensor) -> Tensor:
    """Labels of the tokens that the body kept: (B, T) -> (N). Raises ValueError for a label at padding."""
    if body.packing is None:
        return labels
    check_shape(labels, body.packing.shape)
    kept = body.packing.pack(labels)
    if has_values(labels) and int((kept != IGNORED).sum()) != int((labels != IGNORED).sum()):
        raise ValueError(f"there are labels at padding: set them to {IGNORED}, or learn them with padding='keep' (B5)")
    return kept


def _merge(part: Tensor | None) -> Tensor | None:
    """(B, choices, ...) -> (B · choices, ...)."""
    return None if part is None else part.flatten(0, 1)
