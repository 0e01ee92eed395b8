"""What a person sees in a terminal: colours, tables, help that can be pasted."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minitrans.cli.commands import COMMANDS
from tests.cli.conftest import ROOT

Cell = tuple[str, tuple[int, int, int] | None]  # a character and the colour behind it
TERMINALS = {
    "truecolor": {"TERM": "xterm-256color", "COLORTERM": "truecolor"},
    "256": {"TERM": "xterm-256color", "COLORTERM": ""},
    "16": {"TERM": "xterm", "COLORTERM": ""},
}
SGR = re.compile(r"\x1b\[([\d;]*)m")


def in_a_terminal(*command: str, **environment: str) -> list[list[Cell]]:
    """The rows that a Python process shows in a pseudo-terminal of 80 columns."""
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "80", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while block := os.read(ours, 100_000):
            shown += block
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    _, complaints = running.communicate(timeout=60)
    assert (running.returncode, complaints) == (0, b""), complaints
    return [cells(line) for line in shown.decode().replace("\r", "").split("\n")]


def cells(line: str) -> list[Cell]:
    """The characters of a line with the colours that its escape codes put behind them."""
    found: list[Cell] = []
    behind: tuple[int, int, int] | None = None
    for number, part in enumerate(SGR.split(line)):
        if number % 2 == 0:
            found += [(character, behind) for character in part]
            continue
        codes = [int(code or 0) for code in part.split(";")]
        if 48 in codes:
            rest = codes[codes.index(48) + 1 :]
            behind = tuple(rest[1:4]) if rest[0] == 2 else of_256(rest[1])  # type: ignore[assignment]
        elif any(40 <= code <= 47 or 100 <= code <= 107 for code in codes):
            behind = (-1, -1, -1)
        elif codes[0] in (0, 49):
            behind = None
    return found


def of_256(code: int) -> tuple[int, int, int]:
    """The colour of xterm's palette, of the cube or of the greys."""
    assert code >= 16, "what the first sixteen look like is the user's choice"
    if code >= 232:
        return (8 + 10 * (code - 232),) * 3
    levels = (0, 95, 135, 175, 215, 255)
    return levels[(code - 16) // 36], levels[(code - 16) // 6 % 6], levels[(code - 16) % 6]


def text(row: list[Cell]) -> str:
    return "".join(character for character, _ in row)


def colours(row: list[Cell]) -> list[tuple[int, int, int]]:
    """The colours of a row in their order, cell by cell: neighbours of one colour once."""
    behind = [colour for _, colour in row if colour is not None]
    return [colour for i, colour in enumerate(behind) if i == 0 or behind[i - 1] != colour]


def lightness(colour: tuple[int, int, int]) -> float:
    return 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]


PICTURE = """
from rich.console import Console
from minitrans.cli.heat_map import heat_map, legend
console = Console()
values = [[0.0, 0.3, 0.7], [0.5, 1.0, 0.5], [0.9, 0.0, 0.0]]
console.print(heat_map(console, values, ["a", "bb", "c"], plain=False))
console.print(legend(console, plain=False))
"""


@pytest.mark.parametrize("terminal", TERMINALS)
def test_a_heat_map_is_whole_and_lighter_where_more_is(terminal: str):
    rows = in_a_terminal("-c", PICTURE, **TERMINALS[terminal])
    assert [text(row).split() for row in rows[:2]] == [["b"], ["a", "b", "c"]]
    named = {text(row).split()[0]: row for row in rows[2:5]}
    assert list(named) == ["a", "bb", "c"]
    scale = next(row for row in rows if text(row).startswith("0 "))
    assert text(scale).rstrip().endswith(" 1")
    if terminal == "16":  # shades: of these colours none is surely lighter than another
        assert not any(colour for row in rows for _, colour in row)
        assert [text(named[name])[3:].rstrip() for name in named] == ["    ░░░ ▓▓▓", "▒▒▒ ███ ▒▒▒", "███"]
        assert text(scale)[2:-2].replace(" ", "") == "░▒▓█"
        return
    for row in named.values():
        assert len([colour for _, colour in row if colour is not None]) == 3 * 4, "three cells of four columns"
    shades = [lightness(colour) for colour in colours(scale)]
    assert len(shades) >= 10
    assert shades == sorted(set(shades))
    low, middle, high = ([lightness(colour) for colour in colours(named[name])] for name in ("a", "bb", "c"))
    assert low[0] < low[1] < low[2]
    assert middle[0] == middle[2] < middle[1] == shades[-1]
    assert high == [high[0], shades[0]]
    assert high[0] > low[2]


def test_the_demo_shows_every_row_in_colour(body: str):
    sentence = "the cat sat on the mat"
    arguments = ("-m", "minitrans", "demo", "--model", body, "--sentence", sentence, "--layer", "0", "--head", "0")
    rows = in_a_terminal(*arguments, **TERMINALS["truecolor"])
    drawn = [row for row in rows if len(colours(row)) > 0 and not text(row).startswith("each row")]
    assert [text(row).split()[0] for row in drawn] == ["[CLS]", *sentence.split(), "[SEP]"]
    assert {len([colour for _, colour in row if colour is not None]) for row in drawn} == {8 * 4}
    assert any(text(row).startswith("each row") and len(colours(row)) == 11 for row in rows)


def test_scores_have_a_heading_and_a_bar(body: str, sentences: Path):
    rows = in_a_terminal("-m", "minitrans", "similar", "the cat sat", str(sentences), "-m", body, **TERMINALS["16"])
    shown = [text(row) for row in rows]
    assert any("score" in line and "line" in line and "text" in line for line in shown)
    bars = {line: line.count("█") for line in shown if "█" in line}
    assert len(bars) >= 2
    for line, length in bars.items():
        score = re.search(r"\d\.\d{4}", line)
        assert score
        assert length == round(float(score[0]) * 12)


# -- help --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_can_be_pasted_from_a_narrow_terminal(command: str, run: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = [line.strip() for line in run(command, "--help").out.splitlines()]
    examples = [line.strip() for line in (COMMANDS[command].__doc__ or "").partition("Examples:")[2].splitlines()]
    for example in filter(None, examples):
        assert example in shown


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_a_flag_takes_no_value(command: str, run: Callable):
    shown = run(*command.split(), "--help").out
    assert "--help" in shown
    assert not re.search("<(bool|str|int|float|list)", shown), "what is wanted is named in words, not by a type"


# -- an option that is given twice ---------------------------------------------------------------------------------------

TWICE = [
    ("classify", ["a"], ["--pair", "x", "--pair", "y"], "--pair"),
    ("classify", ["a"], ["-k", "1", "--top-k", "1"], "--top-k"),
    ("similar", ["a", "{file}"], ["--attention", "full", "--attention", "full"], "--attention"),
    ("similar", ["a", "{file}"], ["-m", "{model}"], "--model"),
    ("tag", ["a"], ["--file", "a", "--file=b"], "--file"),
    ("convert", ["a", "b"], ["--as", "BertModel", "--as", "BertForMaskedLM"], "--as"),
]


@pytest.mark.parametrize(("command", "arguments", "options", "name"), TWICE)
def test_an_option_given_twice_is_refused(
    command: str, arguments: list[str], options: list[str], name: str, body: str, sentences: Path, run: Callable
):
    given = [each.format(file=sentences, model=body) for each in (*arguments, *options)]
    model = [] if command == "convert" else ["-m", body]
    run(command, *given, *model).refused(name, "expected once, found 2 times")


def test_a_flag_given_twice_is_no_mistake(body: str, sentences: Path, run: Callable):
    once = run("similar", "cat", sentences, "-m", body, "--json")
    assert run("similar", "cat", sentences, "-m", body, "--json", "--json") == once
