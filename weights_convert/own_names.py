"""Files with our names: what a training tool writes when it saves the state dict of one of our models.

A family's table says what the reference's names are here. A file that holds none of the names that only the reference has,
and some that only we have, is read by the same table with our names on both sides. Names that both have tell nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from weights_convert.rules import Drop, Refuse, Rename, TableRow, Tied, fill, match, movements


def languages(table: Sequence[TableRow], names: Iterable[str]) -> tuple[bool, bool]:
    """Whether some of these bare names are only the reference's, and whether some are only ours."""
    theirs = {_pattern(source) for rule in movements(table) for source in rule.sources}
    ours = {_pattern(target) for rule in movements(table) for target in rule.targets}
    found = {_pattern(name) for name in names}
    return bool(found & (theirs - ours)), bool(found & (ours - theirs))


def own_table(table: Sequence[TableRow]) -> tuple[TableRow, ...]:
    """The table with our names on both sides: nothing is moved, ties and reasons are as they are."""
    ours = {row.source: row.target for row in table if isinstance(row, Rename)}
    rows: dict[TableRow, None] = {}
    for rule in movements(table):
        rows.update(dict.fromkeys(Rename(target, target) for target in rule.targets))
    for row in table:
        if isinstance(row, Drop | Refuse):
            rows[type(row)(ours.get(row.key, row.key), row.why)] = None
        elif isinstance(row, Tied) and row.first in ours:
            first = ours[row.first]
            second = ours.setdefault(
                row.second, first
            )  # a name that only the reference has: ours are tied to each other
            if first != second:
                rows[Tied(first, second, row.saved, row.switch)] = None
    return tuple(rows)


def own_module_names(table: Sequence[TableRow], names: Iterable[str]) -> dict[str, str]:
    """Bare names of what a tool has put into the reference's modules -> their names in ours, where they differ.

    `encoder.layer.0.attention.self.query.lora_A.weight` lies in a module of the reference, and in ours under
    `encoder.layer.0.attention.query`.
    """
    pairs = [
        (row.source.rpartition("."), row.target.rpartition("."))
        for row in table
        if isinstance(row, Rename) and row.source.rpartition(".")[2] == row.target.rpartition(".")[2]
    ]
    theirs: dict[str, dict[str, str]] = {}  # pattern -> templates of modules with it, and ours
    for (source, _, _), (target, _, _) in pairs:
        theirs.setdefault(_pattern(source), {})[source] = target
    ours = {_pattern(target) for _, (target, _, _) in pairs}
    moved: dict[str, str] = {}
    for name in names:
        module = name
        while (module := module.rpartition(".")[0]) and _pattern(module) not in ours:
            for source, target in theirs.get(_pattern(module), {}).items():
                if (numbers := match(source, module)) is not None:
                    moved[name] = fill(target, numbers) + name.removeprefix(module)
            if name in moved:
                break
    return moved


def _pattern(name: str) -> str:
    """A name or a template with every number taken for the same."""
    return ".".join("{}" if part.isdigit() or part[:1] == "{" else part for part in name.split("."))
