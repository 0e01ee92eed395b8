"""Marian: the translators of OPUS-MT (Junczys-Dowmunt et al. 2018). What differs from `bart.py`:

positions are sinusoids, which files do not hold (S6); embeddings are not normalised; the two sides may have a vocabulary each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import nn

from minitrans.layers.positions import SinusoidalPositions
from minitrans.models import bart, pair_tasks, tasks
from minitrans.models.config import EncoderConfig, Rule


@dataclass(kw_only=True)
class MarianConfig(bart.BartConfig):
    """The defaults are those of the reference; the meaning of the other fields stands in `bart.py`."""

    model_type: ClassVar[str] = "marian"
    learned_positions: ClassVar[bool] = False
    of_decoder: ClassVar[Mapping[str, str]] = {**bart.BartConfig.of_decoder, "vocab_size": "decoder_vocab_size"}
    rules: ClassVar[tuple[Rule, ...]] = (
        *bart.BartConfig.rules,
        (("decoder_vocab_size",), lambda size, c: size is None or size >= 1, "at least 1"),
        (
            ("decoder_vocab_size",), lambda size, c: size == c.vocab_size or not c.share_encoder_decoder_embeddings,
            lambda c: f"vocab_size={c.vocab_size}, where both sides share a table",
        ),
    )  # fmt: skip

    vocab_size: int = 58101
    decoder_vocab_size: int | None = None  # V of the target; None = of both
    share_encoder_decoder_embeddings: bool = True
    num_labels: int = 2
    pad_token_id: int | None = 58100
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 0
    decoder_start_token_id: int | None = 58100
    forced_eos_token_id: int | list[int] | None = 0

    def __post_init__(self) -> None:
        if self.decoder_vocab_size is None or self.share_encoder_decoder_embeddings:
            self.decoder_vocab_size = self.vocab_size
        super().__post_init__()

    @property
    def shares_tables(self) -> bool:
        """Whether they are one."""
        return self.share_encoder_decoder_embeddings and self.tie_word_embeddings


class MarianSide(bart.BartSide):
    """One half.

    Args:
        config: of the pair for the encoder, or its `DecoderSide`.
    """

    config_class = MarianConfig
    normed_embeddings = False

    def position_table(self, config: EncoderConfig) -> nn.Module:
        """All sines, then all cosines (S6)."""
        return SinusoidalPositions(config.max_position_embeddings, config.hidden_size, "halves")


class MarianModel(bart.BartKin):
    """Both halves.

    Args:
        config: sizes and rules.
    """

    config_class = MarianConfig
    side_class = MarianSide


class MarianMTModel(pair_tasks.BiasedGeneration, tasks.TaskModel):
    """Marian with a projection that scores the next token of the translation."""

    body_class = cast("Any", MarianModel)


class MarianDecoderModel(bart.BartDecoderModel):
    """The right half alone.

    Args:
        config: of the pair.
    """

    config_class = MarianConfig
    side_class = MarianSide


class MarianForCausalLM(pair_tasks.CausalDecoder):
    """The right half with a projection that scores the next token."""

    body_class = cast("Any", MarianDecoderModel)
