"""What a training left becomes a file among the results."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.trained import app
from minitrans.cli import errors


def test_the_curve_the_scores_and_no_path_of_a_machine(tmp_path: Path, capsys):
    folder = tmp_path / "out"
    folder.mkdir()
    told = {"task": "classify", "data": ["/home/me/train.tsv"], "dev": ["/home/me/dev.tsv"], "model": "/home/me/bert"}
    (folder / "recipe.json").write_text(json.dumps({**told, "metrics": {"accuracy": 90.0}}))
    steps = [{"step": step, "loss": 1 / step, "memory": 5} for step in range(1, 251)]
    (folder / "log.jsonl").write_text(
        "\n".join(json.dumps(line) for line in [*steps, {"step": 250, "evaluation": {"accuracy": 90.0}}])
    )
    words = [str(folder), "--name", "toy", "--results", str(tmp_path)]
    assert errors.run(app, "python -m benchmarks.trained", words) == 0
    text = Path(capsys.readouterr().out.strip()).read_text()
    found = json.loads(text)
    assert "/home" not in text
    assert (found["data"], found["model"]) == (["train.tsv"], "bert")
    assert [row["step"] for row in found["rows"]] == list(range(1, 251, 3))
    assert found["evaluations"] == [{"step": 250, "evaluation": {"accuracy": 90.0}}]
    assert errors.run(app, "python -m benchmarks.trained", [str(tmp_path), "--name", "toy"]) == 2
