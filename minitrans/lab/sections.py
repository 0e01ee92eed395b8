"""The literal table of what the lab measures: a further section is a function, its drawing, and one row."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from minitrans.attention.registry import load
from minitrans.files import printable
from minitrans.lab.passages import WIKITEXT
from minitrans.lab.sts import TEST_FILE, TRAIN_FILE
from minitrans.lab.tasks.table import read_task


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
        files: that it reads, somewhere below the folder of data; besides those of its option "task".
        with_exact: measure the attention that the model has too, under the name "full", first.
        of_model: whether it is measured on the pretrained model; else it needs none.
        needs: sections that come before in any case, the gate before what is timed.
    """

    measure: str
    draw: str = ""
    seeds: Literal["none", "drawn", "all"] = "none"
    files: tuple[str, ...] = ()
    with_exact: bool = False
    of_model: bool = True
    needs: tuple[str, ...] = ()


SECTIONS = {
    "gate": Section("minitrans.lab.gate:gate", "minitrans.lab.drawing.support:draw", of_model=False),
    "swap": Section("minitrans.lab.swap:swap", "minitrans.lab.drawing.swap:draw", "drawn", (TEST_FILE,)),
    "layers": Section("minitrans.lab.swap:layers", "minitrans.lab.drawing.layers:draw", "drawn", (TEST_FILE,)),
    "fidelity": Section("minitrans.lab.fidelity:fidelity", "minitrans.lab.drawing.fidelity:draw", "drawn", (WIKITEXT,)),
    "diagnostics": Section(
        "minitrans.lab.diagnostics:diagnostics", "minitrans.lab.drawing.diagnostics:draw", "drawn", (WIKITEXT,), True
    ),
    "cost": Section("minitrans.lab.cost:cost", "minitrans.lab.drawing.cost:draw", needs=("gate",)),
    "heal": Section(
        "minitrans.lab.heal:heal", "minitrans.lab.drawing.heal:draw", "all", (TEST_FILE, TRAIN_FILE), with_exact=True
    ),
    "sst2": Section(
        "minitrans.lab.sst2:sst2", "minitrans.lab.drawing.probe:draw_sst2", "drawn", ("sst2/train.tsv", "sst2/dev.tsv")
    ),
    "wnut17": Section(
        "minitrans.lab.wnut17:wnut17",
        "minitrans.lab.drawing.probe:draw_wnut17",
        "drawn",
        ("wnut17train.conll", "emerging.test.annotated"),
    ),
    "scratch": Section(
        "minitrans.lab.scratch:scratch", "minitrans.lab.drawing.scratch:draw", "all", with_exact=True, of_model=False
    ),
    "extrapolate": Section(
        "minitrans.lab.extrapolate:extrapolate",
        "minitrans.lab.drawing.extrapolate:draw",
        "all",
        with_exact=True,
        of_model=False,
    ),
}
USUAL = ("gate", "swap")

# name -> sections, and options that are not their usual ones
SUITES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # three variants in ten minutes of two cores of a CPU
    "quick": (
        ("gate", "swap", "fidelity", "diagnostics", "cost", "scratch"),
        (
            "fidelity.texts=4", "diagnostics.texts=4", "cost.longest=512", "cost.repeats=3",
            'scratch.task={"name": "mqar", "pairs": 4}', "scratch.enough=99",
        ),
    ),
    "standard": (tuple(SECTIONS), ()),
}  # fmt: skip


def read_sections(text: str) -> tuple[list[str], list[str]]:
    """Sections in the order of the table, with what they need, and options: of names with commas, or of a suite.

    Raises:
        ValueError: for a name that there is not.
    """
    chosen, options = SUITES.get(text, (tuple(text.split(",")), ()))
    unknown = set(chosen) - set(SECTIONS)
    if unknown:
        known = f"some of {', '.join(SECTIONS)}, or a suite, {', '.join(SUITES)}"
        raise ValueError(f"--section: expected {known}, got {', '.join(sorted(unknown))}")
    asked = {name for each in chosen for name in (each, *SECTIONS[each].needs)}
    return [name for name in SECTIONS if name in asked], list(options)


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
            known = ", ".join(options.get(section, {})) or "none"
            raise ValueError(f"expected SECTION.OPTION=VALUE, got {printable(text)}; options of that section: {known}")
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


def files_of(section: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """What a section reads with these options. Raises ValueError for a task that there is not."""
    return SECTIONS[section].files + (read_task(options["task"])[0].files if "task" in options else ())


def find_files(
    sections: Iterable[str], data: Path | None, options: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> dict[str, Path]:
    """The files that these sections read, by name. Raises ValueError for one that is not in the folder or below."""
    found = {}
    for name in sorted({file for section in sections for file in files_of(section, options.get(section, {}))}):
        places = sorted(data.rglob(name)) if data is not None else []
        if not places:
            where = "--data" if data is None else data
            raise ValueError(f"{where}: expected a folder with {name} in it or below, found none")
        found[name] = places[0]
    return found
