"""The literal table of what the lab measures: a further section is a function, its drawing, and one row."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from minitrans.attention.registry import load
from minitrans.files import printable
from minitrans.lab.passages import WIKITEXT
from minitrans.lab.sts import TEST_FILE, TRAIN_FILE


@dataclass(frozen=True)
class Section:
    """A row of the table.

    Attributes:
        measure: "module:function" that is called with (bench, subject, seed, **options) and returns what it found: a dictionary
            that JSON can hold, "score" and "cosine" being shown by the command. Its keyword-only arguments are the options of
            the section, with their usual values (numbers, texts or booleans); what it raises is kept as the reason of a failure.
        draw: "module:function" that makes HTML of {variant: {section: rows}}, all of them measured; "" = not drawn.
        seeds: what another seed changes: "none", the same every time; "drawn", variants that draw at random; "all", any
            variant, as in training.
        files: that it reads, somewhere below the folder of data.
        with_exact: measure the attention that the model has too, under the name "full", first.
    """

    measure: str
    draw: str = ""
    seeds: Literal["none", "drawn", "all"] = "none"
    files: tuple[str, ...] = ()
    with_exact: bool = False


SECTIONS = {
    "gate": Section("minitrans.lab.gate:gate"),
    "swap": Section("minitrans.lab.swap:swap", "minitrans.lab.drawing.swap:draw", "drawn", (TEST_FILE,)),
    "layers": Section("minitrans.lab.swap:layers", "minitrans.lab.drawing.layers:draw", "drawn", (TEST_FILE,)),
    "fidelity": Section("minitrans.lab.fidelity:fidelity", "minitrans.lab.drawing.fidelity:draw", "drawn", (WIKITEXT,)),
    "diagnostics": Section(
        "minitrans.lab.diagnostics:diagnostics", "minitrans.lab.drawing.diagnostics:draw", "drawn", (WIKITEXT,), True
    ),
    "heal": Section(
        "minitrans.lab.heal:heal", "minitrans.lab.drawing.heal:draw", "all", (TEST_FILE, TRAIN_FILE), with_exact=True
    ),
}
USUAL = ("gate", "swap")


def usual_options(section: str) -> dict[str, Any]:
    """The options of a section with their usual values."""
    arguments = inspect.signature(load(SECTIONS[section].measure)).parameters.values()
    return {each.name: each.default for each in arguments if each.kind is each.KEYWORD_ONLY}


def read_options(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Options of each section, out of "heal.steps=60". Raises ValueError for one that no section has, or of another type."""
    options = {name: usual_options(name) for name in SECTIONS}
    for text in texts:
        place, equals, value = text.partition("=")
        section, _, name = place.partition(".")
        usual = options.get(section, {}).get(name)
        if not equals or usual is None:
            known = ", ".join(f"{each}.{key}" for each, keys in options.items() for key in keys) or "none"
            raise ValueError(f"expected SECTION.OPTION=VALUE, one of {known}, got {printable(text)}")
        options[section][name] = _read(place, value, type(usual))
    return options


def _read(place: str, text: str, kind: type) -> Any:
    if kind is str:
        return text
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{place}: expected {kind.__name__}, got {printable(text)}")
    return value


def find_files(sections: Iterable[str], data: Path) -> dict[str, Path]:
    """The files that these sections read, by name. Raises ValueError for one that is not in the folder or below."""
    found = {}
    for name in sorted({file for section in sections for file in SECTIONS[section].files}):
        places = sorted(data.rglob(name))
        if not places:
            raise ValueError(f"{data}: expected {name} in this folder or below, found none")
        found[name] = places[0]
    return found
