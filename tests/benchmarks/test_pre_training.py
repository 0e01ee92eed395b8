"""The comparison of recipes runs every arm, on the same held-out masks, and draws what it found."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

from benchmarks.pre_training import ARMS, app
from minitrans.cli import errors


def test_every_arm_is_trained_and_drawn(tmp_path: Path):
    rng, words = random.Random(0), [f"{a}{b}" for a in "bdgklmn" for b in ("a", "e", "ion", "us")]
    for part in ("train", "valid"):
        articles = "".join(
            f" = Title {number} = \n \n" + " \n".join(" ".join(rng.choices(words, k=12)) for _ in range(8)) + "\n"
            for number in range(3)
        )
        (tmp_path / f"{part}.txt.gz").write_bytes(gzip.compress(articles.encode()))
    file = tmp_path / "found.json"
    options = ["--results", str(file), "--steps", "5", "--seeds", "1", "--batch", "4", "--vocabulary", "300"]
    assert errors.run(app, "benchmark", [str(tmp_path), *options]) == 0
    found = json.loads(file.read_text())
    assert found["finished"]
    assert [row["arm"] for row in found["rows"]] == list(ARMS)
    for row in found["rows"]:
        assert 0 < row["own"] < 8
        assert [step for step, _ in row["curve"]] == [1, 2, 3, 4, 5]
        assert row["own"] == row["full"] or row["arm"].startswith("next")
    picture = (tmp_path / "found.svg").read_text()
    assert all(arm in picture for arm in ARMS)
