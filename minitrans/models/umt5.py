"""UMT5: T5 in a hundred languages, each seen as often as its data allow (Chung et al. 2023). What differs from `t5.py`:

every block has a table of distances of its own (T2), the feed-forward network is gated, and other sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

from minitrans.layers.position_bias import BucketBias
from minitrans.models import t5, tasks


@dataclass(kw_only=True)
class UMT5Config(t5.T5Config):
    """The defaults are those of umt5-small; the meaning of the other fields stands in `t5.py`."""

    model_type: ClassVar[str] = "umt5"

    vocab_size: int = 250112
    d_ff: int = 1024
    num_layers: int = 8
    num_heads: int = 6
    feed_forward_proj: str = "gated-gelu"


class UMT5Side(t5.T5Side):
    """One half.

    Args:
        config: of the pair for the encoder, or its `DecoderSide`.
    """

    config_class = UMT5Config

    def shared_distances(self, config: t5.T5Config) -> BucketBias | None:
        """None: each block has its own."""
        return None

    def own_distances(self, config: t5.T5Config) -> BucketBias | None:
        """A table a block."""
        return self.distances(config)


class UMT5Model(t5.T5Model):
    """Both halves.

    Args:
        config: sizes and rules.
    """

    config_class = UMT5Config
    side_class = UMT5Side


class UMT5ForConditionalGeneration(t5.T5ForConditionalGeneration, UMT5Model):  # type: ignore[misc]
    """UMT5 with a projection that scores the next token of the target."""

    config_class = UMT5Config


class UMT5ForSequenceClassification(t5.T5ForSequenceClassification):
    """UMT5 with a two-layer classifier on the end of the text."""

    body_class = cast("Any", UMT5Model)


class UMT5ForQuestionAnswering(t5.T5ForQuestionAnswering, UMT5Model):  # type: ignore[misc]
    """UMT5 with a head that scores every token as the first and as the last of the answer."""

    config_class = UMT5Config


class UMT5EncoderModel(t5.T5EncoderModel):
    """The left half alone.

    Args:
        config: of the pair.
    """

    config_class = UMT5Config
    side_class = UMT5Side


class UMT5ForTokenClassification(tasks.TokenClassification):
    """The left half with a linear classifier on every token."""

    body_class = cast("Any", UMT5EncoderModel)
