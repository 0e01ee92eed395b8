"""mBART: BART in many languages (Liu et al. 2020). What differs from `bart.py`:

pre-norm blocks, and a norm after the last (S2); the target begins with its last token, the language it is in (S4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from minitrans.layers.losses import IGNORED
from minitrans.models import bart, pair_tasks, tasks


@dataclass(kw_only=True)
class MBartConfig(bart.BartConfig):
    """The defaults are those of mbart-large; the meaning of the other fields stands in `bart.py`."""

    model_type: ClassVar[str] = "mbart"

    num_labels: int = 2
    decoder_start_token_id: int | None = None  # the language of the target: generation is told which


class MBartSide(bart.BartSide):
    """One half.

    Args:
        config: of the pair for the encoder, or its `DecoderSide`.
    """

    config_class = MBartConfig
    norm_first = True


class MBartModel(bart.BartModel):
    """Both halves.

    Args:
        config: sizes and rules.
    """

    config_class = MBartConfig
    side_class = MBartSide

    def shift_right(self, ids: Tensor) -> Tensor:
        """(B, T): the last token that is no padding goes to the front (S4)."""
        pad = self.config.pad_token_id
        if pad is None:
            return super().shift_right(ids)
        ids = ids.masked_fill(ids == IGNORED, pad)
        last = (ids != pad).sum(dim=1, keepdim=True) - 1  # (B, 1)
        return torch.cat([ids.gather(1, last), ids[:, :-1]], dim=1)


class MBartForConditionalGeneration(pair_tasks.BiasedGeneration, tasks.TaskModel):
    """mBART with a projection that scores the next token of the target."""

    body_class = cast("Any", MBartModel)


class MBartForSequenceClassification(pair_tasks.SequenceClassification, tasks.TaskModel):
    """mBART with a two-layer classifier on the end of the text."""

    body_class = cast("Any", MBartModel)


class MBartForQuestionAnswering(pair_tasks.QuestionAnswering, tasks.TaskModel):
    """mBART with a head that scores every token as the first and as the last of the answer."""

    body_class = cast("Any", MBartModel)


class MBartDecoderModel(bart.BartDecoderModel):
    """The right half alone.

    Args:
        config: of the pair.
    """

    config_class = MBartConfig
    side_class = MBartSide


class MBartForCausalLM(pair_tasks.CausalDecoder):
    """The right half with a projection that scores the next token."""

    body_class = cast("Any", MBartDecoderModel)
