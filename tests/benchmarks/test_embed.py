"""The benchmark of `minitrans embed`: its fields, the killed run, and how it tells of memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import embed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.slow
def test_a_killed_run_gives_the_same_file(tiny_bert: Path, command: Any) -> None:
    found = command(embed, "--texts", 9000, "--every", 0.2, "--model", tiny_bert, "--threads", 1)
    assert found["killed"] == {"windows": 3, "kept": found["killed"]["kept"], "resumed": 0, "equal": True, "litter": []}
    assert 1 <= found["killed"]["kept"] < 3
    assert (found["texts"], found["model"], found["threads"]) == (9000, "bert", 1)
    assert found["texts_per_second"] == pytest.approx(9000 / found["seconds"], rel=0.01)
    assert len(found["mb"]) == len(found["windows"])
    assert 20 < max(found["mb"]) <= found["peak_mb"] < 5000
    assert all(50 < mean < 5000 for mean in found["mean_mb_by_quarter"])


def test_the_texts_are_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        embed.write_texts(tmp_path / name, 500)
    lines = (tmp_path / "one").read_text().splitlines()
    assert (tmp_path / "two").read_text().splitlines() == lines
    assert len(lines) == 500
    assert {len(line.split()) for line in lines} == set(range(3, 13))


def test_quarters_begin_with_the_first_window() -> None:
    starting = [(float(n), 0, 1000.0) for n in range(7)]
    steady = [(10.0 + n, 1 + n, float(n)) for n in range(8)]
    assert embed.means_of_quarters(starting + steady) == [0.5, 2.5, 4.5, 6.5]
    assert embed.means_of_quarters(starting) == []


def test_a_run_that_cannot_be_killed_is_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed.write_texts(tmp_path / "texts.txt", 10)
    monkeypatch.setattr(embed, "watch", lambda *_, **__: embed.Watched(0, 1.0, 1.0))
    with pytest.raises(ValueError, match="expected a run that can be killed, found one that ended with status 0"):
        embed.kill_and_resume([], tmp_path, 1.0)
