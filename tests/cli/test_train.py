"""`minitrans train`, `evaluate` and `train-tokenizer` on a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

TABLE = "label\ttext\n" + "good\tada bob cat\nbad\tdog elm fox\n" * 8
SIZES = "hidden_size = 16\nnum_hidden_layers = 1\nnum_attention_heads = 2\nintermediate_size = 16\n"


def test_from_a_text_to_a_scored_model(run: Any, tmp_path: Path):
    data, words, out = tmp_path / "train.tsv", tmp_path / "words", tmp_path / "model"
    data.write_text(TABLE, encoding="utf-8")
    config = tmp_path / "tiny.toml"
    config.write_text('epochs = 1\nbatch_size = 8\n[architecture]\nmodel_type = "bert"\n' + SIZES)
    assert run("train-tokenizer", data, "--out", words, "--vocab-size", 60).out.startswith("BertTokenizer: ")
    given = ["--data", data, "--dev", data, "--tokenizer", words, "--config", config, "--out", out]
    told = json.loads(run("train", "classify", *given, "--json", "--set", "epochs=2").out)
    assert told["steps"] == 4
    scored = [json.loads(line) for line in run("evaluate", out, "--data", data, "--json").out.splitlines()]
    assert {each["score"]: each["value"] for each in scored}["accuracy"] == pytest.approx(told["accuracy"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "clasify", "--data", "x", "--out", "y"], "did you mean 'classify'?"),
        (["train", "tag", "--data", "nothing.conll", "--out", "y"], "nothing.conll: expected a file, found nothing"),
        (["train", "tag", "--data", "x", "--out", "y", "--set", "epoch=3"], "--set: there is no 'epoch'"),
        (["train", "tag", "--data", "x", "--out", "y", "--set", "epochs"], "--set: expected NAME=VALUE, got 'epochs'"),
        (["evaluate", "nowhere", "--data", "x"], "say which task it is for (--task)"),
        (["train-tokenizer", "nothing.txt", "--out", "y"], "nothing.txt: expected a file, found nothing"),
        (
            ["train", "electra", "--data", "a.txt", "--model", "z", "--out", "y"],
            "z: has no folder 'generator': give what",
        ),
        (
            ["train", "tag", "--data", "a.conll", "--set", "word=5", "--out", "y"],
            "line 1: expected 6 columns, a word and",
        ),
    ],
)
def test_mistakes_are_one_line(
    run: Any, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("ada bob\n")
    Path("a.conll").write_text("ada O\n")
    run(*arguments).refused(message)
    assert not Path("y").exists()


@pytest.mark.parametrize(
    ("dev", "message"),
    [
        ("label\ttext\nugly\tcat\n", "line 2: expected a label of bad, good, found 'ugly'"),
        ("kind\ttext\ngood\tcat\n", "expected a column 'label', found kind, text"),
    ],
)
def test_a_faulty_dev_file_is_found_before_the_training(run: Any, tiny: Any, tmp_path: Path, dev: str, message: str):
    data, other, out = tmp_path / "train.tsv", tmp_path / "dev.tsv", tmp_path / "y"
    data.write_text(TABLE)
    other.write_text(dev)
    model = tiny("BertForSequenceClassification", "two-classes", num_labels=2)
    run(
        "train", "classify", "--data", data, "--dev", other, "--model", model, "--out", out, "--set", "batch_size=8"
    ).refused(message)
    assert not out.exists()
