"""What the models return: dataclasses that can also be read like a tuple or a dict, without what is None."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor
from torch.utils._pytree import GetAttrKey, register_pytree_node

from minitrans.layers.cache import Cache

_iteration = threading.local()  # `names`: of the values that outputs gave last while being iterated over


@dataclass(repr=False)
class ModelOutput:
    """`out.loss`, `out["loss"]` and `out[0]` read the same; positions, slices and iteration skip what is None.

    A node of torch's pytrees, so that what maps over tensors in containers, or exports them, looks inside.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        register_pytree_node(
            cls,
            lambda out: (list(out.values()), out.keys()),
            lambda values, names: _made(cls, values, names),
            flatten_with_keys_fn=lambda out: ([(GetAttrKey(name), value) for name, value in out.items()], out.keys()),
            serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
        )

    def rebuild(self, given: Mapping[str, Any] | Iterator[Any]) -> None:
        """Takes apart what libraries that map over containers pass alone, in the place of the first entry.

        That is a dict (accelerate), or an iterator (the gather of DataParallel: `type(out)(map(gather, zip(*outputs)))`),
        of which the names are those that the zipped outputs noted.
        """
        if isinstance(given, Iterator):
            _iteration.names = {}
            values = list(given)
            given = dict(zip(_iteration.names, values, strict=True))
        for name in _names(self):
            setattr(self, name, given.get(name))

    def items(self) -> list[tuple[str, Any]]:
        """Names and values of the entries that are not None, in order."""
        return [(name, value) for name in _names(self) if (value := getattr(self, name)) is not None]

    def keys(self) -> list[str]:
        """Their names."""
        return [name for name, _ in self.items()]

    def values(self) -> list[Any]:
        """Their values."""
        return [value for _, value in self.items()]

    def to_tuple(self) -> tuple[Any, ...]:
        """Their values."""
        return tuple(self.values())

    def get(self, key: str, default: Any = None) -> Any:
        """The entry of this name, or `default` where it is None or there is none."""
        return dict(self.items()).get(key, default)

    def __getitem__(self, key: int | slice | str) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else self.to_tuple()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __iter__(self) -> Iterator[Any]:
        for name, value in self.items():
            vars(_iteration).setdefault("names", {})[name] = None
            yield value

    def __len__(self) -> int:
        return len(self.items())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.items())})"


Mapping.register(ModelOutput)  # by which accelerate knows what it may look into


def _names(output: ModelOutput) -> list[str]:
    """Of all entries: those that heads share come after their own, those that a caller has set besides at the end."""
    own = [item.name for item in sorted(fields(output), key=lambda item: item.kw_only is True)]
    return [*own, *(name for name in vars(output) if name not in own)]


def _made(cls: type[Any], values: Iterable[Any], names: Iterable[str]) -> Any:
    """The output of these entries."""
    given = dict(zip(names, values, strict=True))
    output = cls(**{item.name: given.pop(item.name, None) for item in fields(cls)})
    vars(output).update(given)
    return output


@dataclass(repr=False)
class HeadOutput(ModelOutput):
    """Of any head.

    Attributes:
        loss: scalar, where all its labels were given.
        hidden_states: as in `EncoderOutput`.
        attentions: as in `EncoderOutput`.
    """

    loss: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = field(default=None, kw_only=True)
    attentions: tuple[Tensor, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.loss, (Mapping, Iterator)):
            self.rebuild(self.loss)


@dataclass(repr=False)
class LogitsOutput(HeadOutput):
    """Of a head with one kind of score.

    Attributes:
        logits: (B, T, V) of a masked language model, (B, T, C) of a token classifier, (B, C) of a sequence classifier,
            (B, choices) of multiple choice, (B, 2) of next-sentence prediction.
    """

    logits: Tensor | None = None


@dataclass(repr=False)
class CausalOutput(LogitsOutput):
    """Of a causal language model: the logits are (B, T, V).

    Attributes:
        past_key_values: what the decoder remembers.
        cross_attentions: as in `EncoderOutput`.
    """

    past_key_values: Cache | None = None
    cross_attentions: tuple[Tensor, ...] | None = field(default=None, kw_only=True)


@dataclass(repr=False)
class PreTrainingOutput(HeadOutput):
    """Of BERT's two pre-training heads (B4).

    Attributes:
        prediction_logits: (B, T, V).
        seq_relationship_logits: (B, 2).
    """

    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None


@dataclass(repr=False)
class SentenceOrderOutput(HeadOutput):
    """Of ALBERT's two pre-training heads.

    Attributes:
        prediction_logits: (B, T, V).
        sop_logits: (B, 2).
    """

    prediction_logits: Tensor | None = None
    sop_logits: Tensor | None = None


@dataclass(repr=False)
class SpanOutput(HeadOutput):
    """Of an extractive question answerer.

    Attributes:
        start_logits: (B, T).
        end_logits: (B, T).
    """

    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
