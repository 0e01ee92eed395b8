"""What the models return: dataclasses that can also be read like a tuple or a dict, without what is None."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

from torch import Tensor
from torch.utils._pytree import GetAttrKey, register_pytree_node

from minitrans.layers.cache import Cache


@dataclass(repr=False)
class ModelOutput(dict[str, Any]):
    """`out.loss`, `out["loss"]` and `out[0]` read the same; keys, positions and slices skip what is None.

    Iteration gives names, as the reference's does: it is a dict to whoever asks (Trainer, accelerate, the gather of
    DataParallel), and `loss, logits = out.to_tuple()` unpacks it. Entries are its attributes; the dict beneath stays empty.

    A node of torch's pytrees, so that what maps over tensors in containers, or exports them, looks inside.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        register_pytree_node(
            cls,
            lambda out: (list(out.values()), list(out)),
            lambda values, names: _made(cls, values, names),
            flatten_with_keys_fn=lambda out: ([(GetAttrKey(name), value) for name, value in out.items()], list(out)),
            serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
        )

    def rebuild(self, given: Mapping[str, Any] | Iterator[tuple[str, Any]]) -> None:
        """Takes apart what stands for all entries in the place of the first: a dict (accelerate), or pairs (DataParallel)."""
        entries = dict(given)
        vars(self).update({name: entries.get(name) for name in (*_names(self), *entries)})

    def _entries(self) -> dict[str, Any]:
        return {name: value for name in _names(self) if (value := getattr(self, name)) is not None}

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """Names and values of the entries that are not None, in order."""
        return self._entries().items()

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """Their names."""
        return self._entries().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """Their values."""
        return self._entries().values()

    def to_tuple(self) -> tuple[Any, ...]:
        """Their values."""
        return tuple(self.values())

    def get(self, key: str, default: Any = None) -> Any:
        """The entry of this name, or `default` where it is None or there is none."""
        return self._entries().get(key, default)

    def copy(self) -> dict[str, Any]:
        """A plain dict of the entries."""
        return self._entries()

    def __getitem__(self, key: int | slice | str) -> Any:
        return self._entries()[key] if isinstance(key, str) else self.to_tuple()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def __contains__(self, key: object) -> bool:
        return key in self._entries()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries())

    def __len__(self) -> int:
        return len(self._entries())

    def __or__(self, other: Any) -> Any:
        return self._entries() | other

    def __ror__(self, other: Any) -> Any:
        return other | self._entries()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    def _refuse(self, *given: Any, **named: Any) -> NoReturn:
        raise TypeError(f"entries of {type(self).__name__} are assigned by name; dict(output) gives a dict to change")

    __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse


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
