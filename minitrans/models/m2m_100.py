"""M2M-100 and NLLB: translation between a hundred languages and more (Fan et al. 2021). What differs from `bart.py`:

pre-norm blocks and a norm after the last; positions are sinusoids of another layout (S7), counted over tokens only, so that
padding does not move a text; no bias beside the projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from minitrans.layers.positions import SinusoidalPositions
from minitrans.models import bart, pair_tasks, tasks
from minitrans.models.config import EncoderConfig, Rule

PADDING = 1  # whose row of the table is zero (S7)


@dataclass(kw_only=True)
class M2M100Config(bart.BartConfig):
    """The defaults are those of m2m100_418M; the meaning of the other fields stands in `bart.py`."""

    model_type: ClassVar[str] = "m2m_100"
    learned_positions: ClassVar[bool] = False
    rules: ClassVar[tuple[Rule, ...]] = (
        *bart.BartConfig.rules,
        (("pad_token_id",), lambda pad, c: pad == PADDING, f"{PADDING}: the table of positions is made for it"),
    )

    vocab_size: int = 128112
    encoder_layerdrop: float = 0.05
    decoder_layerdrop: float = 0.05
    activation_function: str = "relu"
    attention_dropout: float = 0.1
    scale_embedding: bool = True
    num_labels: int = 2
    forced_eos_token_id: int | list[int] | None = None


class M2M100Side(bart.BartSide):
    """One half.

    Args:
        config: of the pair for the encoder, or its `DecoderSide`.
    """

    config_class = M2M100Config
    norm_first = True
    normed_embeddings = False

    def position_table(self, config: EncoderConfig) -> nn.Module:
        """Sinusoids that know a place for padding."""
        return SinusoidalPositions(config.max_position_embeddings, config.hidden_size, "halves_offset")

    def positions(self, tokens: Tensor, past_length: int) -> Tensor:
        """(B, T): tokens are counted, padding is at -1; vectors are all counted."""
        if tokens.is_floating_point():
            return super().positions(tokens, past_length)
        real = (tokens != PADDING).long()
        return (real.cumsum(dim=1) + past_length) * real - 1


class M2M100Model(bart.BartKin):
    """Both halves.

    Args:
        config: sizes and rules.
    """

    config_class = M2M100Config
    side_class = M2M100Side


class M2M100ForConditionalGeneration(pair_tasks.ConditionalGeneration, tasks.TaskModel):
    """M2M-100 with a projection that scores the next token of the translation."""

    body_class = cast("Any", M2M100Model)
