"""PEGASUS: a pair pre-trained to write the sentences that were left out of a text (Zhang et al. 2020). See `marian.py`:

the same positions, in pre-norm blocks with a norm after the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

from torch import nn

from minitrans.layers.positions import SinusoidalPositions
from minitrans.models import bart, pair_tasks, tasks
from minitrans.models.config import EncoderConfig


@dataclass(kw_only=True)
class PegasusConfig(bart.BartConfig):
    """The defaults are those of pegasus-large; the meaning of the other fields stands in `bart.py`."""

    model_type: ClassVar[str] = "pegasus"
    learned_positions: ClassVar[bool] = False

    num_labels: int = 2
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 1
    decoder_start_token_id: int | None = 0
    forced_eos_token_id: int | list[int] | None = 1


class PegasusSide(bart.BartSide):
    """One half.

    Args:
        config: of the pair for the encoder, or its `DecoderSide`.
    """

    config_class = PegasusConfig
    norm_first = True
    normed_embeddings = False

    def position_table(self, config: EncoderConfig) -> nn.Module:
        """All sines, then all cosines (S7)."""
        return SinusoidalPositions(config.max_position_embeddings, config.hidden_size, "halves")


class PegasusModel(bart.BartKin):
    """Both halves.

    Args:
        config: sizes and rules.
    """

    config_class = PegasusConfig
    side_class = PegasusSide


class PegasusForConditionalGeneration(pair_tasks.BiasedGeneration, tasks.TaskModel):
    """PEGASUS with a projection that scores the next token of the summary."""

    body_class = cast("Any", PegasusModel)


class PegasusDecoderModel(bart.BartDecoderModel):
    """The right half alone.

    Args:
        config: of the pair.
    """

    config_class = PegasusConfig
    side_class = PegasusSide


class PegasusForCausalLM(pair_tasks.CausalDecoder):
    """The right half with a projection that scores the next token."""

    body_class = cast("Any", PegasusDecoderModel)
