"""The STS benchmark: the published number with the real weights, and the rank correlation itself."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from minitrans.lab.sts import ranks, read_pairs, spearman

ROOT = Path(__file__).resolve().parent.parent.parent


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.sts", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_minilm_reaches_the_published_correlation(shared_data: Path, minilm: Path, tmp_path: Path):
    done = command(shared_data / "stsb" / "stsb-en-test.csv", "--json", "--results", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    first, path = done.stdout.splitlines()
    correlation, pairs, _ = first.split("\t")
    assert float(correlation) == pytest.approx(82.03, abs=0.05)
    assert pairs == "1379"
    found = json.loads(Path(path).read_text())
    assert Path(path).name.startswith(f"sts-{found['date'][:10]}-cpu")
    assert found["spearman"] == pytest.approx(82.03, abs=0.05)
    assert found["backend"]["chosen"] == "sdpa"
    assert {"torch", "minitrans"} <= set(found["versions"])


def test_ranks_share_ties():
    assert ranks([3.0, 1.0, 3.0, 2.0]) == [3.5, 1.0, 3.5, 2.0]


def test_spearman_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    generator = random.Random(0)
    one = [generator.randrange(8) / 2 for _ in range(200)]
    two = [value + generator.gauss(0, 2) for value in one]
    assert spearman(one, two) == pytest.approx(stats.spearmanr(one, two).statistic, abs=1e-12)
    with pytest.raises(ValueError, match="no correlation"):
        spearman([1.0, 1.0], [1.0, 2.0])


def test_quoted_commas_are_read(tmp_path: Path):
    path = tmp_path / "pairs.csv"
    path.write_text('"a, b",c,2.5\nd,e,0\n')
    assert [(pair.first, pair.score) for pair in read_pairs(path)] == [("a, b", 2.5), ("d", 0.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,1\nc,d\n", "line 2: expected 3 fields (first, second, score), found 2"),
        ("a,b,x\n", "line 1"),
        ("", "found none"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str):
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    done = command(path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
