"""The heads of families that are decoders by nature: the next token by one projection, texts by their last token."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from minitrans.attention.layout import PackedLayout
from minitrans.models import language_tasks, tasks
from minitrans.models.backbone import EncoderOutput
from minitrans.models.config import EncoderConfig


class PlainHead(language_tasks.WithLanguageModelHead):
    """What they share whose scores of the vocabulary are a projection, the token table where the two are tied (G3)."""

    def build_head(self, config: EncoderConfig) -> None:
        """`lm_head`."""
        self.base_model.below_decoder = True
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def get_output_embeddings(self) -> nn.Linear:
        """The projection."""
        return cast("nn.Linear", self.lm_head)

    def set_output_embeddings(self, decoder: nn.Linear) -> None:
        """Replaces it."""
        self.lm_head = decoder


class CausalLM(PlainHead, language_tasks.CausalLM):
    """Scores of the next token."""


class WithoutCache(tasks.TaskModel):
    """What they share that look at a text once: a cache is made only where the call asks for it."""

    def run_body(self, labels: Tensor | None, /, **given: Any) -> EncoderOutput:
        """As of `TaskModel`."""
        return super().run_body(labels, **{**given, "use_cache": bool(given.get("use_cache"))})


class SequenceClassification(WithoutCache, tasks.SequenceClassification):
    """A linear classifier, without a bias, on the last token of a text, which has seen all others (G3)."""

    needs_pooler = False

    def build_head(self, config: EncoderConfig) -> None:
        """`label_scores`."""
        self.label_scores = nn.Linear(config.hidden_size, config.num_labels, bias=False)

    def run_body(self, labels: Tensor | None, /, **given: Any) -> EncoderOutput:
        """The body's output, with the last token of each text as what stands for it."""
        body = super().run_body(labels, **given)
        hidden = body.last_hidden_state
        last = self.last_tokens(given.get("input_ids"), given.get("layout"), len(hidden))
        body.pooler_output = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return body

    def last_tokens(self, ids: Tensor | None, layout: PackedLayout | None, texts: int) -> Tensor | int:
        """(B) where the last token of each text is: the rightmost id that is not padding; of vectors simply the last.

        Raises:
            ValueError: for several texts where no id is known as padding.
        """
        if layout is not None:
            return layout.cu_seqlens.diff().long() - 1
        padding = self.config.pad_token_id
        if padding is None and texts != 1:
            raise ValueError(
                f"where do the {texts} texts end? Say which id is padding: model.config.pad_token_id = ..., or give one text"
            )
        if padding is None or ids is None:
            return -1
        places = torch.arange(ids.shape[1], device=ids.device)
        return (places * (ids != padding)).argmax(dim=-1)

    def score(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        """(B, D) -> (B, C)."""
        scores: Tensor = self.label_scores(pooled)
        return scores


class TokenClassification(WithoutCache, tasks.TokenClassification):
    """A linear classifier on every token."""


class QuestionAnswering(WithoutCache, tasks.QuestionAnswering):
    """A score of every token as the first, and one as the last of the answer; `num_labels` says nothing here."""

    def build_head(self, config: EncoderConfig) -> None:
        """`qa_outputs`."""
        self.dropout = nn.Dropout(0.0)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
