"""Two bodies joined to a pair: the tables of both, of which the second has the head of a language model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from weights_convert.families import bert, gpt2, roberta, roberta_prelayernorm
from weights_convert.families.family import Family, linear
from weights_convert.rules import Rule, TableRow, Tied

HALVES = {
    "bert": bert.FAMILY,
    "roberta": roberta.FAMILY,
    "xlm-roberta": roberta.FAMILY,
    "camembert": roberta.FAMILY,
    "roberta-prelayernorm": roberta_prelayernorm.FAMILY,
    "gpt2": gpt2.FAMILY,
}


def _is_of_head(target: str, family: Family) -> bool:
    return target.partition(".")[0] in family.fresh - {"pooler"}


def _moved(row: TableRow, theirs: Callable[[str], str], ours: Callable[[str], str]) -> TableRow:
    """The row with other names."""
    if isinstance(row, Tied):
        return replace(row, first=theirs(row.first), second=theirs(row.second))
    if not isinstance(row, Rule):
        return replace(row, key=theirs(row.key))
    source, target = tuple(map(theirs, row.sources)), tuple(map(ours, row.targets))
    single = isinstance(row.source, str), isinstance(row.target, str)
    moved: Rule = replace(
        cast("Any", row), source=source[0] if single[0] else source, target=target[0] if single[1] else target
    )
    return moved


def _half(side: str, config: Any) -> tuple[TableRow, ...]:
    """The rows of one half: the encoder is a bare body, the decoder one below a head, which stands on the pair here."""
    family = HALVES[config.model_type]
    rows = family.table(config)
    of_head = {
        name for row in rows if isinstance(row, Rule) and _is_of_head(row.targets[0], family) for name in row.sources
    }
    body = f"{side}." if side == "encoder" else f"{side}.{family.prefix}."
    of_body = {name for row in rows if isinstance(row, Rule) and not of_head & {*row.sources} for name in row.sources}

    def theirs(name: str) -> str:
        return f"{body if name in of_body else f'{side}.'}{name}"

    def ours(name: str) -> str:
        return name if _is_of_head(name, family) else f"{side}.{name}"

    kept = (
        row for row in rows
        if not isinstance(row, Rule) or row.targets[0].startswith("lm_head") or not _is_of_head(row.targets[0], family)
    )  # fmt: skip
    if side == "encoder":
        kept = (row for row in kept if isinstance(row, Rule) and not _is_of_head(row.targets[0], family))
    return tuple(_moved(row, theirs, ours) for row in kept)


def _table(config: Any) -> tuple[TableRow, ...]:
    projection = linear("enc_to_dec_proj", "enc_to_dec_proj")
    return (*_half("encoder", config.encoder), *_half("decoder", config.decoder), *projection)


FAMILY = Family(prefix="encoder_decoder", table=_table, fresh=frozenset({"enc_to_dec_proj"}))
