"""What the models return: dataclasses that can also be read like a tuple or a dict, without what is None."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from minitrans.layers.cache import Cache
from minitrans.models.padding import Packing


@dataclass
class ModelOutput:
    """`out.loss`, `out["loss"]` and `out[0]` read the same; positions, slices and iteration skip what is None."""

    def to_tuple(self) -> tuple[Any, ...]:
        """The entries that are not None, in order."""
        return tuple(value for _, value in self.items())

    def keys(self) -> list[str]:
        """Names of the entries that are not None; with `__getitem__` this lets `dict(out)` and `**out` work."""
        return [name for name, _ in self.items()]

    def items(self) -> list[tuple[str, Any]]:
        """Names and values of the entries that are not None."""
        pairs = [(item.name, getattr(self, item.name)) for item in dataclasses.fields(self)]
        return [(name, value) for name, value in pairs if value is not None]

    def __getitem__(self, key: int | slice | str) -> Any:
        if isinstance(key, str):
            return dict(self.items())[key]
        return self.to_tuple()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def __len__(self) -> int:
        return len(self.to_tuple())


@dataclass
class EncoderOutput(ModelOutput):
    """Of a body.

    Attributes:
        last_hidden_state: (B, T, D).
        pooler_output: (B, D), where the body has a pooler.
        past_key_values: what a decoder remembers.
        hidden_states: L + 1 tensors (B, T, D): the embeddings, then each block's output.
        attentions: L tensors (B, H, T, S), probabilities before dropout.
        cross_attentions: the same over the memory.
        packing: of a padded batch run without its padding under `unpack=False`: then the hidden states are (N, D).
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    packing: Packing | None = None


@dataclass
class LogitsOutput(ModelOutput):
    """Of a head with one kind of score.

    Attributes:
        loss: scalar, where labels were given.
        logits: (B, T, V) of a masked language model, (B, T, C) of a token classifier, (B, C) of a sequence classifier,
            (B, choices) of multiple choice, (B, 2) of next-sentence prediction.
        hidden_states: as in `EncoderOutput`.
        attentions: as in `EncoderOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class CausalOutput(ModelOutput):
    """Of a causal language model.

    Attributes:
        loss: scalar, where labels were given.
        logits: (B, T, V).
        past_key_values: what the decoder remembers.
        hidden_states: as in `EncoderOutput`.
        attentions: as in `EncoderOutput`.
        cross_attentions: as in `EncoderOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class PreTrainingOutput(ModelOutput):
    """Of BERT's two pre-training heads.

    Attributes:
        loss: scalar, where both kinds of labels were given (B4).
        prediction_logits: (B, T, V).
        seq_relationship_logits: (B, 2).
        hidden_states: as in `EncoderOutput`.
        attentions: as in `EncoderOutput`.
    """

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class SentenceOrderOutput(ModelOutput):
    """Of ALBERT's two pre-training heads.

    Attributes:
        loss: scalar, where both kinds of labels were given.
        prediction_logits: (B, T, V).
        sop_logits: (B, 2).
        hidden_states: as in `EncoderOutput`.
        attentions: as in `EncoderOutput`.
    """

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    sop_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class SpanOutput(ModelOutput):
    """Of an extractive question answerer.

    Attributes:
        loss: scalar, where positions were given.
        start_logits: (B, T).
        end_logits: (B, T).
        hidden_states: as in `EncoderOutput`.
        attentions: as in `EncoderOutput`.
    """

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
