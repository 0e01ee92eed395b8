"""What a user writes for a variant: a row's name, JSON, "module:Class", "my.py:MyAttention"; "all" is every row."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from minitrans.attention.registry import VARIANTS, load
from minitrans.attention.specs import check_spec
from minitrans.files import printable


@dataclass(frozen=True)
class Subject:
    """A variant under measurement.

    Attributes:
        name: as tables show it.
        spec: as `set_attention` takes it.
    """

    name: str
    spec: Any

    @property
    def takes_seed(self) -> bool:
        """Whether it draws at random by a seed among its options, rather than when it is built."""
        name = self.spec.get("name") if isinstance(self.spec, dict) else self.spec
        return name in VARIANTS and "seed" in inspect.signature(load(VARIANTS[name])).parameters

    def seeded(self, seed: int) -> Any:
        """The spec under this seed."""
        if not self.takes_seed:
            return self.spec
        return {"seed": seed, **(self.spec if isinstance(self.spec, dict) else {"name": self.spec})}


def read_subjects(texts: list[str]) -> list[Subject]:
    """The variants that are asked for, each once. Raises ValueError or TypeError for a text that says none."""
    wanted = [each for text in texts for each in (VARIANTS if text == "all" else [text])]
    return list({subject.name: subject for subject in map(_read, wanted)}.values())


def sources(subject: Subject) -> list[Path]:
    """The files of variants that are named by their place."""
    places = [word for word in json.dumps(subject.spec).split('"') if ":" in word and word.partition(":")[0].strip()]
    files = (getattr(import_module(place.partition(":")[0]), "__file__", None) for place in places)
    return [Path(file) for file in files if file is not None]


def _read(text: str) -> Subject:
    spec: Any = text
    if text.lstrip()[:1] in ("{", "["):
        try:
            spec = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"expected a variant's name or JSON, got {printable(text)}: {error}") from None
    elif ".py:" in text:
        file, _, name = text.rpartition(":")
        sys.path.insert(0, str(Path(file).resolve().parent))
        spec = f"{Path(file).stem}:{name}"
    elif text in VARIANTS and _needs_options(load(VARIANTS[text])):
        spec = {"name": text, **load(VARIANTS[text]).trial}
    check_spec(spec)
    return Subject(spec if isinstance(spec, str) else _shown(spec), spec)


def _needs_options(row: Any) -> bool:
    options = inspect.signature(row).parameters.values()
    return any(option.default is option.empty and option.kind is option.KEYWORD_ONLY for option in options)


def _shown(spec: Any) -> str:
    """sliding_window(window=8), a + b, or JSON where it is more."""
    if isinstance(spec, list):
        return " + ".join(map(_shown, spec))
    if isinstance(spec, dict) and "name" in spec:
        options = ", ".join(f"{key}={value}" for key, value in spec.items() if key != "name")
        return f"{spec['name']}({options})" if options else str(spec["name"])
    return spec if isinstance(spec, str) else json.dumps(spec)
