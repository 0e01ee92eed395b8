"""The tables of convert and inspect fit a screen, and nothing is hidden by folding."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from minitrans.checkpoints.folding import Fold, fold_table, folded
from minitrans.cli.commands import app


def test_layers_and_the_parameters_of_a_module_are_one_row() -> None:
    tensors = [
        (("e.layer.0.q.bias", "e.h.0.s.q.bias"), (2,)),
        (("e.layer.0.q.weight", "e.h.0.s.q.weight"), (2, 3)),
        (("e.layer.1.q.weight", "e.h.1.s.q.weight"), (2, 3)),
        (("pool.weight", "pool.weight"), (2,)),
        (("scale", "scale"), ()),
    ]
    assert folded(tensors) == [
        Fold(("e.layer.*.q", "e.h.*.s.q"), "2 x 3", 3),
        Fold(("pool", "pool"), "2", 1),
        Fold(("scale", "scale"), "", 1),
    ]


def test_layers_of_several_shapes_say_so() -> None:
    tensors = [((f"layer.{n}.q.weight",), (2 + n, 3)) for n in range(2)]
    assert folded([(("m." + names[0],), shape) for names, shape in tensors]) == [
        Fold(("m.layer.*.q",), "3 x 3, or others", 2)
    ]


def test_a_name_from_a_file_stays_one_line_of_plain_text() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(fold_table(("in the file",), [Fold(("[red]\x1b[31m.\n.x",), "1", 1)]))
    assert "\x1b" not in out.getvalue()
    assert "[red]" in out.getvalue()


@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_a_checkpoint_fits_a_screen_of_80_columns(command: str, minilm: Any, tmp_path: Any) -> None:
    arguments = [command, str(minilm), *([str(tmp_path / "out")] if command == "convert" else [])]
    lines = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"}).output.splitlines()
    table = lines[next(n for n, line in enumerate(lines) if "tensors" in line and "weight" in line) :]
    end = next(n for n, line in enumerate(table) if line.startswith(("103 tensors", "104 tensors")))
    assert end <= 26, "\n".join(table)
    names = [line.split()[0] for line in table[1:end]]
    assert {"embeddings", "encoder.layer.*", "attention.query" if command == "convert" else "attention.self.query"} <= set(names)  # fmt: skip


@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_all_shows_every_tensor(command: str, minilm: Any, tmp_path: Any) -> None:
    arguments = [command, str(minilm), "--all", *([str(tmp_path / "out")] if command == "convert" else [])]
    output = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}).output
    assert all(f"encoder.layer.{layer}.attention" in output for layer in range(6))
