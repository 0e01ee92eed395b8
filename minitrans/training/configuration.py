"""A training's configuration: defaults of the task, a TOML or JSON file, and single values from the command line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from minitrans.errors import nearest
from minitrans.files import printable, read_json, require_regular_file
from minitrans.training.recipes.recipe import Recipe
from minitrans.training.settings import TrainingSettings
from minitrans.training.tasks import recipe_class


@dataclass(frozen=True)
class Configuration:
    """All that a run is told besides the files.

    Attributes:
        recipe: the task, with what is its own.
        settings: of the loop.
        architecture: of a fresh model, or fields of its configuration that differ from the checkpoint's.
    """

    recipe: Recipe
    settings: TrainingSettings
    architecture: Mapping[str, Any] = field(default_factory=dict)


def configure(task: str, file: str | Path | None = None, given: Sequence[str] = (), **values: Any) -> Configuration:
    """The configuration of a task; what comes later wins.

    Args:
        task: a name of RECIPES.
        file: a .toml or .json file with fields of `TrainingSettings` and of the recipe, and a table `architecture`.
        given: "name=value" each, the value in JSON or a plain word.
        values: the same, as they are.

    Raises:
        ValueError: naming the field that there is not, and the nearest that there is, or that has an impossible value.
    """
    kind = recipe_class(task)
    kinds = {**_types(TrainingSettings), **_types(kind)}
    found: dict[str, Any] = {"best": kind.best, "maximize": kind.maximize, **kind.defaults}
    where = "a setting"
    for where, part in (
        (printable(file), {} if file is None else _read(Path(file))),
        ("--set", parse(given)),
        ("a setting", values),
    ):
        found |= {name: _checked(where, name, value, kinds) for name, value in part.items()}
    architecture = found.pop("architecture", {})
    of_recipe = {each.name for each in fields(kind)}
    return Configuration(
        kind(**{name: value for name, value in found.items() if name in of_recipe}),
        TrainingSettings(**{name: value for name, value in found.items() if name not in of_recipe}),
        architecture,
    )


def parse(given: Sequence[str]) -> dict[str, Any]:
    """Settings of "name=value" each. Raises ValueError for one that is none."""
    return dict(map(_assignment, given))


def _types(kind: type) -> dict[str, Any]:
    """The fields of a dataclass and their types."""
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".json":
        return read_json(path)
    if path.suffix != ".toml":
        raise ValueError(f"{printable(path)}: expected a configuration that ends in .toml or .json")
    require_regular_file(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{printable(path)}: expected TOML, found: {printable(error)}") from None


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set: expected NAME=VALUE, got {printable(text)!r}")
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value


def _checked(where: str, name: str, value: Any, kinds: Mapping[str, Any]) -> Any:
    """The value as its field has it."""
    if name == "architecture":
        wanted: Any = dict
    elif name in kinds:
        wanted = kinds[name]
    else:
        known = ("architecture", *kinds)
        raise ValueError(f"{where}: there is no {printable(name)!r}; did you mean {nearest(name, known)}?")
    for kind in get_args(wanted) if isinstance(wanted, UnionType) else (wanted,):
        if get_origin(kind) is tuple:
            parts = value.split(",") if isinstance(value, str) else value
            inner, end = get_args(kind)[0], get_args(kind)[-1]
            fits = isinstance(parts, list | tuple) and (end is ... or len(parts) == len(get_args(kind)))
            if fits and all(_is(each, inner) for each in parts):
                return tuple(parts)
        elif _is(value, kind):
            return float(value) if kind is float else value
    raise ValueError(f"{where}: {name}: expected {_shown(wanted)}, got {printable(value)!r}")


def _is(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _shown(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if isinstance(kind, UnionType):
        return " or ".join(_shown(each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        return f"a list of {_shown(parts[0])}" if parts[-1] is ... else f"[{', '.join(map(_shown, parts))}]"
    words = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        dict: "a table",
        type(None): "null",
    }
    return words.get(kind, str(kind))
