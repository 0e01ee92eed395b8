"""mT5: T5 in a hundred languages (Xue et al. 2021). What differs from `t5.py`:

version 1.1 of T5, of which what is scored was never scaled (T4), and other sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

from minitrans.models import t5, tasks


@dataclass(kw_only=True)
class MT5Config(t5.T5Config):
    """The defaults are those of mt5-small; the meaning of the other fields stands in `t5.py`."""

    model_type: ClassVar[str] = "mt5"

    vocab_size: int = 250112
    d_ff: int = 1024
    num_layers: int = 8
    num_heads: int = 6
    feed_forward_proj: str = "gated-gelu"
    scale_decoder_outputs: bool | None = False


class MT5Side(t5.T5Side):
    """One half.

    Args:
        config: of the pair for the encoder, or its `DecoderSide`.
    """

    config_class = MT5Config


class MT5Model(t5.T5Model):
    """Both halves.

    Args:
        config: sizes and rules.
    """

    config_class = MT5Config
    side_class = MT5Side


class MT5ForConditionalGeneration(t5.T5ForConditionalGeneration, MT5Model):  # type: ignore[misc]
    """MT5 with a projection that scores the next token of the target."""

    config_class = MT5Config


class MT5ForSequenceClassification(t5.T5ForSequenceClassification):
    """MT5 with a two-layer classifier on the end of the text."""

    body_class = cast("Any", MT5Model)


class MT5ForQuestionAnswering(t5.T5ForQuestionAnswering, MT5Model):  # type: ignore[misc]
    """MT5 with a head that scores every token as the first and as the last of the answer."""

    config_class = MT5Config


class MT5EncoderModel(t5.T5EncoderModel):
    """The left half alone.

    Args:
        config: of the pair.
    """

    config_class = MT5Config
    side_class = MT5Side


class MT5ForTokenClassification(tasks.TokenClassification):
    """The left half with a linear classifier on every token."""

    body_class = cast("Any", MT5EncoderModel)
