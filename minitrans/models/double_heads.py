"""Two heads on a decoder: the next token, and which of several texts is right (Radford et al. 2018, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minitrans.layers.activations import activation
from minitrans.layers.cache import Cache
from minitrans.layers.losses import TwoItems, next_token_labels, token_loss
from minitrans.models.backbone import returned
from minitrans.models.config import DecoderConfig, EncoderConfig
from minitrans.models.decoder_tasks import PlainHead
from minitrans.models.outputs import HeadOutput


@dataclass(kw_only=True)
class DoubleHeadsConfig(DecoderConfig):
    """A decoder's, with what the head for several texts asks for."""

    summary_type: str = "cls_index"  # what stands for a text: the token at a given place
    summary_use_proj: bool = True  # whether it goes through a layer
    summary_activation: str | None = None  # of that layer
    summary_proj_to_labels: bool = True  # whether the layer gives scores
    summary_first_dropout: float = 0.1  # before it
    summary_last_dropout: float = 0.0  # after it


@dataclass(repr=False)
class DoubleHeadsOutput(HeadOutput):
    """Of the two heads; `loss` is that of the next tokens alone.

    Attributes:
        mc_loss: scalar, where `mc_labels` were given.
        logits: (B, choices, T, V).
        mc_logits: (B, choices).
        past_key_values: what the decoder remembers, of B · choices texts.
    """

    mc_loss: Tensor | None = None
    logits: Tensor | None = None
    mc_logits: Tensor | None = None
    past_key_values: Cache | None = None


class SequenceSummary(nn.Module):
    """One score of a text: dropout(act(summary(dropout(h)))) of the token that stands for it.

    Args:
        width: D.
        act: activation name.
        first_dropout: probability, on h.
        last_dropout: probability, on the score.
    """

    def __init__(self, width: int, act: str, first_dropout: float, last_dropout: float) -> None:
        super().__init__()
        self.act = activation(act)
        self.summary = nn.Linear(width, 1)
        self.first_dropout, self.last_dropout = nn.Dropout(first_dropout), nn.Dropout(last_dropout)

    def forward(self, hidden: Tensor, places: Tensor | None) -> Tensor:
        """(B, T, D) and (B) places, None = the last -> (B)."""
        text = hidden[torch.arange(len(hidden), device=hidden.device), -1 if places is None else places]
        scores: Tensor = self.last_dropout(self.act(self.summary(self.first_dropout(text))))
        return scores.squeeze(-1)


class DoubleHeads(PlainHead):
    """Scores of the next token, and of each of several texts; inputs are (B, choices, T)."""

    needs_grid = True
    accepts_loss_kwargs: ClassVar[bool] = False  # as of `TwoLosses`

    def build_head(self, config: EncoderConfig) -> None:
        """`lm_head` and `multiple_choice_head`."""
        super().build_head(config)
        wanted = {"summary_type": "cls_index", "summary_use_proj": True, "summary_proj_to_labels": True}
        for name, value in wanted.items():  # the reference takes others, and gives no score a text
            if getattr(config, name) != value:
                raise ValueError(f"a text has one score, of one token: {name} must be {value!r} for this head")
        self.multiple_choice_head = SequenceSummary(
            config.hidden_size, config.summary_activation or "linear",
            config.summary_first_dropout, config.summary_last_dropout,
        )  # fmt: skip

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        mc_token_ids: Tensor | None = None,
        labels: Tensor | None = None,
        mc_labels: Tensor | None = None,
        *,
        num_items_in_batch: TwoItems = (None, None),
        return_dict: bool | None = None,
        **options: Any,
    ) -> DoubleHeadsOutput:
        """Scores, and their losses.

        Args:
            mc_token_ids: (B, choices) the token that stands for each text, None = the last.
            labels: (B, choices, T) as for a causal language model.
            mc_labels: (B) the number of the right text.
            num_items_in_batch: see `Items`, of tokens and of texts.
        """
        given = inputs_embeds if input_ids is None else input_ids
        if given is not None and given.dim() != (4 if input_ids is None else 3):
            raise ValueError(f"several texts are (B, choices, T), got {tuple(given.shape)}")
        batch, choices = (1, 1) if given is None else given.shape[:2]
        texts = {
            "input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids,
            "position_ids": position_ids, "inputs_embeds": inputs_embeds,
        }  # fmt: skip
        flat = {name: None if part is None else part.flatten(0, 1) for name, part in texts.items()}
        body = self.run_body(labels, **flat, **options)
        places = None if mc_token_ids is None else mc_token_ids.flatten()
        scores = self.lm_head(body.last_hidden_state)  # (B · choices, T, V)
        of_texts = self.multiple_choice_head(body.last_hidden_state, places).view(batch, choices)
        output = DoubleHeadsOutput(
            None if labels is None else token_loss(scores, next_token_labels(labels.flatten(0, 1)), num_items_in_batch[0]),
            None if mc_labels is None else token_loss(of_texts, mc_labels.flatten(), num_items_in_batch[1]),
            scores.view(batch, choices, *scores.shape[1:]), of_texts, body.past_key_values, **body.by_layer,
        )  # fmt: skip
        return returned(output, return_dict, self.config)
