"""The examples in the help of every benchmark can be typed as they stand there."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command

import benchmarks

FOLDER = Path(benchmarks.__file__).parent
COMMANDS = sorted(path.stem for path in FOLDER.glob("*.py") if "\napp = typer.Typer(" in path.read_text())


@pytest.mark.parametrize("name", COMMANDS)
def test_examples(name: str) -> None:
    command = get_command(import_module(f"benchmarks.{name}").app)
    text = command.help or ""
    examples = [line.strip() for line in text.splitlines() if line.strip().startswith("python ")]
    assert examples, text
    for example in examples:
        assert len(example) <= 76, f"breaks at 80 columns: {example}"
        words = shlex.split(example)
        assert words[:3] == ["python", "-m", f"benchmarks.{name}"]
        command.make_context(name, words[3:])  # raises for an option that there is not


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_results_that_are_named_exist(path: Path) -> None:
    for name in re.findall(r"benchmarks/results/[\w.-]+", path.read_text()):
        assert (FOLDER.parent / name).exists(), name
