"""What the converter knows of an architecture, and the rows that the BERT-shaped ones share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from weights_convert.rules import Drop, Refuse, Rename, TableRow, Tied


@dataclass(frozen=True)
class Family:
    """An architecture: its name tables and how its files are wrapped.

    `table(config)` gives the rows for bare names, body and every head. `prefix` is the attribute of the body inside a
    headed model, the same on both sides; `others`, what some heads call it instead. `fresh` names the top-level modules
    that a checkpoint of the bare body may lack.
    """

    prefix: str
    table: Callable[[Any], tuple[TableRow, ...]]
    fresh: frozenset[str]
    others: tuple[str, ...] = ()

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Every name of the body inside a headed model."""
        return (self.prefix, *self.others)

    def bare(self, name: str) -> str:
        """A name of a model without that of the body."""
        first, dot, rest = name.partition(".")
        return rest if dot and first in self.prefixes else name


def linear(source: str, target: str) -> tuple[Rename, Rename]:
    """The weight and the bias of one module."""
    return Rename(f"{source}.weight", f"{target}.weight"), Rename(f"{source}.bias", f"{target}.bias")


def drop_linear(module: str, why: str) -> tuple[Drop, Drop]:
    """The weight and the bias of a module that the model at hand may not have."""
    return Drop(f"{module}.weight", why), Drop(f"{module}.bias", why)


def unused(rows: Iterable[TableRow], why: str) -> tuple[Drop, ...]:
    """What these rows move, for a model that may not have that half."""
    return tuple(Drop(source, why) for row in rows if isinstance(row, Rename) for source in row.sources)


def tables(*kinds: str) -> tuple[Rename, ...]:
    """The embedding tables of these kinds: "word", "position", "token_type"."""
    return tuple(Rename(name, name) for name in (f"embeddings.{kind}_embeddings.weight" for kind in kinds))


def tied_decoder(config: Any, decoder: str, table: str = "embeddings.word_embeddings.weight") -> tuple[Tied, ...]:
    """The weight `decoder` of a language-modelling head and the token `table`, if they are one."""
    return (Tied(decoder, table, switch="tie_word_embeddings"),) if config.tie_word_embeddings else ()


_LAYER = "encoder.layer.{layer}"


def _attention(source: str, target: str, norm: str) -> tuple[TableRow, ...]:
    return (
        *linear(f"{_LAYER}.{source}.self.query", f"{_LAYER}.{target}.query"),
        *linear(f"{_LAYER}.{source}.self.key", f"{_LAYER}.{target}.key"),
        *linear(f"{_LAYER}.{source}.self.value", f"{_LAYER}.{target}.value"),
        *linear(f"{_LAYER}.{source}.output.dense", f"{_LAYER}.{target}.output"),
        *linear(f"{_LAYER}.{source}.{norm}", f"{_LAYER}.{target}_LayerNorm"),
        Rename(f"{_LAYER}.{source}.self.distance_embedding.weight", f"{_LAYER}.{target}.distance_embedding.weight"),
        Refuse(
            f"{_LAYER}.{source}.self.distance_embedding.weight",
            "expected no relative positions in a model of position_embedding_type 'absolute', found a table of them; "
            "set position_embedding_type to what the model was trained with, relative_key or relative_key_query (M8)",
        ),
    )


NO_POOLER = "this model has no pooler (B2, R5)"
OTHER_HEAD = "it belongs to the head of another task"

POSITION_BUFFER = Drop("embeddings.position_ids", "a buffer that counts positions; they are computed (B8)")

BUFFERS = (
    POSITION_BUFFER,
    Drop("embeddings.token_type_ids", "a buffer of zeros; the default token types are computed"),
)


def encoder_body(
    attention_norm: str = "output.LayerNorm", feed_forward_norm: str = "output.LayerNorm"
) -> tuple[TableRow, ...]:
    """The rows of a body with BERT's names; the arguments say where the norms of a block stand in the file."""
    return (
        *tables("word", "position", "token_type"),
        *linear("embeddings.LayerNorm", "embeddings.LayerNorm"),
        *_attention("attention", "attention", attention_norm),
        *_attention("crossattention", "cross_attention", attention_norm),
        *linear(f"{_LAYER}.intermediate.dense", f"{_LAYER}.feed_forward.up"),
        *linear(f"{_LAYER}.output.dense", f"{_LAYER}.feed_forward.down"),
        *linear(f"{_LAYER}.{feed_forward_norm}", f"{_LAYER}.feed_forward_LayerNorm"),
        *linear("pooler.dense", "pooler.dense"),
        *drop_linear("pooler.dense", NO_POOLER),
        *BUFFERS,
    )
