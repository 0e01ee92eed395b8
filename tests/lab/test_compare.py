"""Two results side by side: only what is of one configuration, and a verdict only where the noise is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from minitrans.lab.compare import ALONE, Compared, _difference, compare
from tests.cli.conftest import Run, run  # noqa: F401 (fixture)

PLACE = {"commit": "abc", "dirty": False, "device": "x86_64 CPU", "threads": 1, "torch": "2.13"}


def row(score: float | None, seed: int = 0, **changes: Any) -> dict[str, Any]:
    plain = {"variant": "sink", "spec": "sink", "section": "swap", "options": {}, "seed": seed, "status": "ok"}
    return {**plain, **({} if score is None else {"score": score}), "configuration": f"c{seed}", **PLACE, **changes}


def write(place: Path, *rows: dict[str, Any]) -> Path:
    place.mkdir(exist_ok=True)
    (place / "results.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return place


def verdict(tmp_path: Path, first: list[dict[str, Any]], second: list[dict[str, Any]]) -> Compared:
    (found,) = compare(write(tmp_path / "a", *first), write(tmp_path / "b", *second))
    return found


def test_one_number_each_is_the_same_or_of_unknown_noise(tmp_path: Path):
    assert verdict(tmp_path, [row(80.0)], [row(80.0)]).verdict == "same"
    found = verdict(tmp_path, [row(80.0)], [row(81.0)])
    assert (found.first, found.second, found.interval, found.verdict) == (80.0, 81.0, None, ALONE)


def test_seeds_tell_the_noise(tmp_path: Path):
    first = [row(80.0 + seed, seed) for seed in range(4)]
    better = verdict(tmp_path, first, [row(85.0 + seed + 0.1 * (seed % 2), seed) for seed in range(4)])
    assert better.verdict == "better"
    assert better.seeds == 4
    noisy = verdict(tmp_path, first, [row(80.0 + seed + (-3) ** seed, seed) for seed in range(4)])
    assert noisy.verdict == "no difference shown"
    assert verdict(tmp_path, first, [row(70.0 + seed + 0.1 * (seed % 2), seed) for seed in range(4)]).verdict == "worse"
    assert verdict(tmp_path, first, [row(85.0, 7)]).verdict == "no seed in common"


@pytest.mark.parametrize("number", [2, 3, 6, 11, 12, 40])
def test_the_interval_is_students(number: int):
    changes = [0.3 * seed**1.5 % 2.0 for seed in range(number)]
    found = _difference([({}, {})] * number, changes)
    assert found is not None
    low, high = stats.t.interval(0.95, number - 1, loc=sum(changes) / number, scale=stats.sem(changes))
    assert found.low == pytest.approx(low, abs=0.01 * (high - low))
    assert found.high == pytest.approx(high, abs=0.01 * (high - low))


def test_answers_to_each_text_tell_the_noise_of_one_seed(tmp_path: Path):
    def trained(right: list[int]) -> dict[str, Any]:
        return row(100 * sum(right) / 100, rate="0.1", rates={"0.1": {"hits": right}}, questions=[1] * 100)

    much = verdict(tmp_path, [trained([1, 0] * 50)], [trained([1, 1] * 50)])
    assert much.verdict == "better"
    little = verdict(tmp_path, [trained([1, 0] * 50)], [trained([1, 0] * 49 + [1, 1])])
    assert little.verdict == "no difference shown"


def test_other_configurations_are_not_compared(tmp_path: Path):
    changed = row(81.0, configuration="d", options={"steps": 2})
    assert verdict(tmp_path, [row(80.0)], [changed]).verdict == "another configuration: options"
    assert verdict(tmp_path, [row(80.0)], [row(81.0, configuration="d")]).verdict.endswith("model or data")
    assert verdict(tmp_path, [row(80.0)], [row(None, status="failed", reason="")]).verdict == "failed in the second"
    assert verdict(tmp_path, [row(None)], [row(None)]).verdict == "both ran: no score to compare"


def test_rows_of_one_side_are_named(tmp_path: Path):
    found = compare(write(tmp_path / "a", row(1.0), row(1.0, section="heal")), write(tmp_path / "b", row(1.0)))
    assert [(each.section, each.verdict) for each in found] == [("swap", "same"), ("heal", "in the first alone")]


def test_from_the_command_line(run: Run, tmp_path: Path):  # noqa: F811
    one, two = write(tmp_path / "a", row(80.0)), write(tmp_path / "b", row(81.0, commit="def", dirty=True))
    done = run("lab", "compare", one / "results.jsonl", two)
    assert done.code == 0, done
    assert done.out.split("\t")[:3] == ["sink", "swap", "1"]
    assert ALONE in done.out
    assert "commit abc, x86_64 CPU" in done.err
    assert "commit def with changes" in done.err
    run("lab", "compare", one, tmp_path).refused("results.jsonl")


@pytest.mark.parametrize("content", ['{"a": 1}\n', "a text\n\nwith no end", "[]\n", "3"])
def test_what_holds_no_results_is_refused_and_left_alone(run: Run, tmp_path: Path, content: str):  # noqa: F811
    (tmp_path / "file").write_text(content)
    run("lab", "compare", tmp_path / "file", tmp_path / "file").refused("expected a folder with results.jsonl")
    assert (tmp_path / "file").read_text() == content
