"""The example of kernels/README.md runs, and its table names what the package exports."""

from __future__ import annotations

import re
from pathlib import Path

import minitrans_kernels
import pytest

README = (Path(__file__).resolve().parents[2] / "kernels" / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(capsys: pytest.CaptureFixture[str]):
    code = re.search(r"test_kernels_readme.py -->\n```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    exec(compile(code[1], "kernels/README.md", "exec"), {})
    difference = re.search(r"tensor\((\d[^,]*)", capsys.readouterr().out)
    assert difference is not None
    assert float(difference[1]) < 1e-5


def test_the_table_names_every_function():
    table = README[README.index("| function |") :].split("\n\n", maxsplit=1)[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    classes = {"BlockLayout", "RelativeBias"}
    assert named == set(minitrans_kernels.__all__) - classes - {"available"}
    assert all(getattr(minitrans_kernels, name) is not None for name in minitrans_kernels.__all__)
