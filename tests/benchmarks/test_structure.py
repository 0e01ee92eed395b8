"""The bounds on the tree's shape, and that what measures them counts what it says."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from benchmarks import structure
from benchmarks.tables import number, table


@pytest.fixture(scope="module")
def shape() -> dict[str, Any]:
    return structure.shape()


@pytest.mark.parametrize(
    ("what", "at_most"),
    [
        ("files_entered", 10),
        ("lines_executed", 170),
        ("files_entered_by_gpt2", 20),
        ("lines_executed_by_gpt2", 252),
        ("circles", 0),
        ("up_arrows", 0),
        ("checks_percent", 7.99),
    ],
)
def test_bounds(shape: dict[str, Any], what: str, at_most: float) -> None:
    assert shape[what] <= at_most


SOURCE = '''"""A module.

Of two paragraphs."""
import os  # a comment


def check_size(size: int) -> int:
    """A docstring is no code."""
    limit = 10

    # nor is this
    if size > limit:
        raise ValueError(
            f"too large: {size}"
        )
    return size


def load(path: str) -> str:
    checked = check_size(len(path))
    if not path:
        fail("empty")
    elif path == "a":
        path = "b"
    else:
        raise ValueError
    if checked:
        path = path.strip()
        assert path
    x.requires_grad_()
    return path


def fail(what: str) -> NoReturn:
    raise OSError(what)
'''


def test_code_and_checks_are_told_apart() -> None:
    tree = ast.parse(SOURCE)
    lines = SOURCE.splitlines()
    code = structure.code_lines(SOURCE, tree)
    assert [lines[n - 1].strip() for n in sorted(code)] == [
        line.strip() for line in lines[3:] if line.strip() and not line.strip().startswith(('"""', "#"))
    ]
    checks = [lines[n - 1].strip() for n in sorted(structure.checking_lines(tree) & code)]
    assert checks == [
        "def check_size(size: int) -> int:", "limit = 10", "if size > limit:", "raise ValueError(", 'f"too large: {size}"',
        ")", "return size", "checked = check_size(len(path))", "if not path:", 'fail("empty")', "raise ValueError",
        "assert path", "def fail(what: str) -> NoReturn:", "raise OSError(what)",
    ]  # fmt: skip


def test_only_our_lines_are_executed_lines() -> None:
    from minitrans.errors import CheckpointError
    from minitrans.files import printable

    found = structure.executed(lambda: (printable("a\nb"), ast.parse("1"), CheckpointError("c")))
    assert found.keys() == {"minitrans.files"}
    assert 0 < len(found["minitrans.files"]) < 20


def test_the_whole_is_counted(shape: dict[str, Any]) -> None:
    assert shape["packages"].keys() == {"minitrans", "minitrans_kernels", "weights_convert"}
    for counts in (shape["packages"], shape["rooms"], shape["modules"]):
        assert sum(lines for lines, _, _ in counts.values()) == shape["lines"]
        assert all(lines >= code >= checks for lines, code, checks in counts.values())
    assert shape["basement"].keys() == set(structure.BASEMENT)
    for ran in shape["forward"].values():
        assert {"minitrans.layers.multi_head_attention", "minitrans.attention.eager"} <= ran.keys()


def test_overhead_and_imports_are_timed(shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "CALLS_A_RUN", 1)
    timed = {"overhead": structure.overhead(), "import_seconds": structure.import_seconds(runs=1)}
    times = timed["overhead"]["microseconds"]
    assert times.keys() == {"attend", "torch"}
    assert 0 < timed["overhead"]["ratio"]["low"] <= timed["overhead"]["ratio"]["high"]
    text = "\n".join(structure.tables(shape | timed))
    for words in ("files entered", "times torch's", "import minitrans", "minitrans.attention", "worst file"):
        assert words in text


def test_tables_line_up_without_exponents() -> None:
    assert [number(value) for value in (0.00002075, 12345.6, 0.0, 9.9996, -3.0)] == [
        "0.00002075", "12,346", "0", "10.000", "-3.000",
    ]  # fmt: skip
    lines = table(["a", "number"], [["x | y", 1.0], ["z", None], ["**2**", "-**3**"]]).splitlines()
    assert lines == [
        "| a     | number |", "| ----- | -----: |", "| x / y |  1.000 |", "| z     |        |", "| **2** | -**3** |",
    ]  # fmt: skip
