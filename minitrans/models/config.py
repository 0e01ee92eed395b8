"""What every configuration says: a dataclass with Hugging Face's field names, checked when it is made and when it changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from minitrans.attention.specs import VariantSpec, check_spec
from minitrans.layers.activations import activation
from minitrans.layers.losses import ProblemType
from minitrans.models.config_object import ConfigObject
from weights_convert.plan import DTYPES

POSITION_TYPES = ("absolute", "relative_key", "relative_key_query")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")


_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "str": (str,),
    "int | None": (int, type(None)),
    "float | None": (float, int, type(None)),
    "int | list[int] | None": (int, list, type(None)),
}
# Which fields, what their value and the configuration must satisfy, and the words for it
Rule = tuple[tuple[str, ...], Callable[[Any, Any], bool], str | Callable[[Any], str]]
SIZE = (lambda value, c: value >= 1, "at least 1")
RATE = (lambda value, c: value is None or 0.0 <= value < 1.0, "in [0, 1)")
TOKEN = (lambda value, c: value is None or 0 <= value < c.vocab_size, lambda c: f"in [0, vocab_size={c.vocab_size})")


def check_fields(config: Any, rules: Iterable[Rule], own_names: Mapping[str, str] = MappingProxyType({})) -> None:
    """Raises TypeError where a plain field holds another type (True is no int, NaN breaks the rules), ValueError by a rule."""
    for item in dataclasses.fields(config):
        accepted, value = _TYPES.get(str(item.type), (object,)), getattr(config, item.name)
        if not isinstance(value, accepted) or (isinstance(value, bool) and not {bool, object} & {*accepted}):
            raise TypeError(f"{item.name} must be {item.type}, got {value!r}")
    for names, holds, words in rules:
        for name in names:
            if not holds(value := getattr(config, name), config):
                expected = words if isinstance(words, str) else words(config)
                raise ValueError(f"{own_names.get(name, name)} must be {expected}, got {value!r}")


def _can_be_pruned(pruned: Mapping[int, tuple[int, ...]], config: Any) -> bool:
    layers, heads = range(config.num_hidden_layers), set(range(config.num_attention_heads))
    return all(layer in layers and set(gone) < heads for layer, gone in pruned.items())


@dataclass(kw_only=True)
class ModelConfig(ConfigObject):
    """The fields that say how a model is used; a family adds those that say what it is.

    Raises:
        TypeError: for an unknown field or a value of the wrong type.
        ValueError: for an impossible value or combination.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        (("num_labels",), *SIZE),
        (
            ("id2label",), lambda names, c: len(names) == c.num_labels,
            lambda c: f"{c.num_labels} names, as many as num_labels (give both)",
        ),
        (("problem_type",), lambda kind, c: kind in (None, *PROBLEM_TYPES), f"one of {PROBLEM_TYPES}"),
        (
            ("problem_type",), lambda kind, c: c.num_labels > 1 or kind != "single_label_classification",
            "'regression' with one label (or set num_labels=2): one class has no other to be told from",
        ),
        (("dtype",), lambda dtype, c: dtype is None or dtype in DTYPES.values(), f"one of {', '.join(DTYPES)}"),
        (("architectures",), lambda names, c: names is None or all(isinstance(name, str) for name in names), "names"),
    )  # fmt: skip
    steering: ClassVar[frozenset[str]] = ConfigObject.steering | {
        "id2label", "label2id", "problem_type", "output_attentions", "output_hidden_states",
    }  # fmt: skip

    num_labels: int = 2  # classes of a classification head
    id2label: Mapping[int, str] | None = None  # their names; None = LABEL_0, LABEL_1, ...
    label2id: Mapping[str, int] | None = None  # the inverse
    problem_type: ProblemType | None = None  # of a sequence classifier; None = told by the labels
    output_attentions: bool = False  # return the attention probabilities unless the call says otherwise
    output_hidden_states: bool = False  # return every layer's output unless the call says otherwise
    attention: VariantSpec = "full"  # which attention, see minitrans.attention.specs

    def __post_init__(self) -> None:
        names = {int(key): str(name) for key, name in (self.id2label or {}).items()}
        self.id2label = names or {label: f"LABEL_{label}" for label in range(self.num_labels)}
        self.label2id = dict(self.label2id or {name: label for label, name in self.id2label.items()})
        if isinstance(self.dtype, str):
            self.dtype = DTYPES.get(self.dtype.removeprefix("torch."), self.dtype)
        rates = tuple(
            item.name for item in dataclasses.fields(self) if "dropout" in item.name or item.name.endswith("pdrop")
        )
        check_fields(self, (*self.rules, (rates, *RATE)), self.own_names)
        check_spec(self.attention)
        super().__post_init__()

    def _by_field(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Names of labels say how many there are; another number of them drops the old names."""
        values = super()._by_field(changes)
        if values.get("id2label") is not None:
            values.setdefault("num_labels", len(values["id2label"]))
            values.setdefault("label2id", None)
        elif values.get("num_labels", self.num_labels) != self.num_labels:
            values.setdefault("id2label", None)
            values.setdefault("label2id", None)
        return values


@dataclass(kw_only=True)
class EncoderConfig(ModelConfig):
    """What every encoder has. The engine reads the rest by BERT's names, which a family has as fields or translates."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *ModelConfig.rules,
        ((
            "vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads",
            "intermediate_size", "embedding_size",
        ), *SIZE),
        (
            ("hidden_size",), lambda width, c: width % c.num_attention_heads == 0,
            lambda c: f"a multiple of {c.own_name('num_attention_heads')}={c.num_attention_heads}",
        ),
        (("layer_norm_eps",), lambda eps, c: 0.0 < eps <= 1.0, "in (0, 1]"),
        (("initializer_range",), lambda deviation, c: 0.0 <= deviation < 1e3, "in [0, 1000)"),
        (
            ("pad_token_id",), lambda pad, c: pad is None or -1 <= pad < c.vocab_size,
            lambda c: f"in [0, vocab_size={c.vocab_size}), or -1 for none",
        ),
        (("pruned_heads",), _can_be_pruned, "some, not all, heads of existing layers"),
    )  # fmt: skip
    steering: ClassVar[frozenset[str]] = ModelConfig.steering | {
        "pad_token_id", "bos_token_id", "eos_token_id", "initializer_range",
    }  # fmt: skip
    instead: ClassVar[Mapping[str, str]] = {"embedding_size": "hidden_size"}
    lacking: ClassVar[Mapping[str, Any]] = {
        "type_vocab_size": 0,  # no token types
        "position_embedding_type": "absolute",
        "activation_dropout": 0.0,  # inside the feed-forward networks
        "is_decoder": False,  # no causal attention, and no cache (B7)
        "add_cross_attention": False,  # no attention to an encoder's output
        "use_cache": False,
    }

    vocab_size: int  # V, rows of the token table
    pad_token_id: int | None  # the id that fills short sequences
    bos_token_id: int | None = None  # the id that begins a text
    eos_token_id: int | list[int] | None = None  # the id that ends it, or several that may
    tie_word_embeddings: bool = True  # the decoder of a language-modelling head is the token table (B3)
    pruned_heads: Mapping[int, tuple[int, ...]] = field(default_factory=dict)  # heads removed, by layer

    @property
    def head_dropout(self) -> float:
        """The dropout before a classifier."""
        return float(self.hidden_dropout_prob)

    def __post_init__(self) -> None:
        pruned = {int(layer): tuple(sorted(set(heads))) for layer, heads in self.pruned_heads.items() if heads}
        self.pruned_heads = pruned
        super().__post_init__()
        activation(self.hidden_act)

    def own_name(self, name: str) -> str:
        """The family's own name of what BERT calls `name`, for messages."""
        return self.own_names.get(name, name)


@dataclass(kw_only=True)
class DecoderConfig(EncoderConfig):
    """What every family has that is a decoder by nature."""

    steering: ClassVar[frozenset[str]] = EncoderConfig.steering | {"use_cache"}
    aliases: ClassVar[Mapping[str, str]] = {"hidden_dropout": "classifier_dropout"}
    is_decoder: ClassVar[bool] = True

    initializer_range: float = 0.02  # standard deviation of fresh weights
    use_cache: bool = True  # the cache is returned unless the call says otherwise
    classifier_dropout: float | None = None  # before a classifier of tokens; None = 0.1

    @property
    def head_dropout(self) -> float:
        """The dropout before a classifier."""
        return 0.1 if self.classifier_dropout is None else self.classifier_dropout


@dataclass(kw_only=True)
class BertSizesConfig(EncoderConfig):
    """The sizes and rates that most families name as BERT does."""

    hidden_size: int  # D
    num_hidden_layers: int  # L
    num_attention_heads: int  # H
    intermediate_size: int  # F
    max_position_embeddings: int  # rows of the position table
    initializer_range: float = 0.02  # standard deviation of fresh weights
    hidden_act: str = "gelu"  # activation of the feed-forward networks (B1)
    hidden_dropout_prob: float = 0.1  # on embeddings and on the output of each sub-layer
    attention_probs_dropout_prob: float = 0.1  # on attention probabilities
    layer_norm_eps: float  # added to the variance


@dataclass(kw_only=True)
class BertLikeConfig(BertSizesConfig):
    """BERT's architecture, encoder or decoder; families give the defaults of their checkpoints."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *EncoderConfig.rules,
        (("type_vocab_size",), *SIZE),
        (("position_embedding_type",), lambda kind, c: kind in POSITION_TYPES, f"one of {POSITION_TYPES}"),
        (("add_cross_attention",), lambda wanted, c: c.is_decoder or not wanted, "False unless is_decoder is True"),
    )
    steering: ClassVar[frozenset[str]] = BertSizesConfig.steering | {"use_cache"}

    type_vocab_size: int = 2  # rows of the token-type table
    classifier_dropout: float | None = None  # before a classifier; None = hidden_dropout_prob
    position_embedding_type: str = "absolute"  # or relative_key, relative_key_query (M8)
    is_decoder: bool = False  # causal attention, and a cache (B7)
    add_cross_attention: bool = False  # attend to an encoder's output too (B7)
    use_cache: bool = True  # a decoder returns its cache unless the call says otherwise

    @property
    def head_dropout(self) -> float:
        """The dropout before a classifier."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout
