"""convert, inspect, verify on the command line, and what importing the package costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from minitrans.cli.app import main

Make = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Result:
    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def call(*arguments: object) -> Result:
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = main([str(argument) for argument in arguments])
    return Result(code, out.getvalue(), err.getvalue())


def test_an_old_checkpoint_becomes_a_clean_one(reference: Make, tmp_path: Path) -> None:
    source = reference("BertForMaskedLM")
    clean = dict(source.tensors)
    source.tensors = {
        "module."
        + key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for key, tensor in source.tensors.items()
    }
    source.tensors["module.bert.embeddings.position_ids"] = torch.arange(33)
    source.write_bin()
    (source.folder / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    result = call("convert", source.folder, tmp_path / "clean")
    assert result.exit_code == 0, result.output
    assert "dropped, a buffer that counts positions" in result.output
    assert "written to" in result.output
    tensors = load_file(tmp_path / "clean" / "model.safetensors")
    assert set(tensors) == set(clean)
    assert all(torch.equal(tensors[key], clean[key]) for key in clean)
    assert (tmp_path / "clean" / "vocab.txt").read_text() == "[PAD]\n[UNK]\n"


def test_the_account_of_a_conversion_is_complete(reference: Make, tmp_path: Path) -> None:
    result = call("convert", reference("RobertaForMaskedLM").folder, tmp_path / "x", "--json", "--dtype", "float16")
    report = json.loads(result.stdout)
    assert all(len(row["sha256"]) == 64 and row["finite"] for row in report["rows"])
    assert {row["dtype"] for row in report["rows"]} == {"float16"}
    assert {row["stored"] for row in report["rows"]} == {"float32"}


def test_inspect_reads_no_weights(reference: Make) -> None:
    source = reference("BertForSequenceClassification", num_labels=3)
    path = source.folder / "model.safetensors"
    header = int.from_bytes(path.read_bytes()[:8], "little")
    with path.open("r+b") as file:
        file.seek(8 + header)
        file.write(b"\xff" * 1000)  # NaN everywhere: nobody looks
    result = call("inspect", source.folder)
    assert result.exit_code == 0, result.output
    assert "bert: BertForSequenceClassification" in result.output
    found = json.loads(call("inspect", source.folder, "--json").stdout)
    assert {"key": "classifier.weight", "dtype": "float32", "shape": [3, 24], "file": "model.safetensors"} in found[
        "tensors"
    ]
    assert found["config"]["num_labels"] == 3


def test_verify_says_equal(reference: Make) -> None:
    result = call("verify", reference("BertForQuestionAnswering").folder)
    assert result.exit_code == 0, result.output
    assert "BertForQuestionAnswering equals the reference" in result.output


def test_verify_exits_with_1_where_the_models_differ(reference: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitrans.checkpoints.verification.TOLERANCE", 0.0)
    monkeypatch.setattr("minitrans.checkpoints.verification._error", lambda *_: 1.0)
    result = call("verify", reference("BertModel").folder)
    assert result.exit_code == 1
    assert "differs from the reference: first at forward of embeddings" in result.output


def test_user_errors_are_lines_and_exit_code_2(reference: Make, tmp_path: Path) -> None:
    source = reference("BertModel")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    calls = {
        "no such folder": ("inspect", tmp_path / "absent dir"),
        "not a name on": ("inspect", "a/b/c"),
        "expected an empty or absent destination": ("convert", source.folder, tmp_path / "full"),
        "found a file": ("convert", source.folder, tmp_path / "file"),
        "outside the source": ("convert", source.folder, source.folder),
        "outside the source, ": ("convert", source.folder, source.folder / "inside"),
        "dtype must be one of": ("convert", source.folder, tmp_path / "y", "--dtype", "int3"),
        "unknown model class": ("convert", source.folder, tmp_path / "y", "--as", "Evil"),
        "a random head is not converted": ("convert", source.folder, tmp_path / "y", "--as", "BertForMaskedLM"),
        "max_shard_size must be": ("convert", source.folder, tmp_path / "y", "--max-shard-size", "much"),
    }
    for message, arguments in calls.items():
        result = call(*arguments)
        assert result.exit_code == 2, (message, result.output)
        assert message.strip(", ") in result.stderr
        assert result.stderr.startswith("minitrans: ")
        assert len(result.stderr.splitlines()) == 1
        assert not result.stdout
        assert not (tmp_path / "y").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["x"]
    assert call("convert", source.folder, tmp_path / "full", "--force").exit_code == 0
    assert call("convert", source.folder).exit_code == 2
    assert call("convert", "--frobnicate").exit_code == 2


def test_every_fault_is_a_line(reference: Make) -> None:
    source = reference("BertModel")
    del source.tensors["pooler.dense.bias"]
    source.tensors["pooler.dense.weight"] = torch.zeros(2)
    result = call("verify", source.write().folder)
    assert result.exit_code == 2
    assert [line.startswith("minitrans: ") for line in result.stderr.splitlines()] == [True] * 3


def test_names_from_files_cannot_drive_the_terminal(reference: Make) -> None:
    source = reference("BertModel")
    source.tensors["[red]\x1b]0;owned\x07"] = torch.zeros(1)
    result = call("inspect", source.write().folder)
    assert "\x1b" not in result.output
    assert "\x07" not in result.output
    assert "[red]" in result.output


@pytest.mark.parametrize("command", ["convert", "inspect", "verify"])
def test_help_has_examples(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert f"minitrans {command}" in result.output


def test_importing_the_package_is_cheap() -> None:
    code = (
        "import sys, weights_convert; from minitrans.models.loading import load_model; import minitrans.models.saving;"
        "bad = {'transformers', 'safetensors', 'typer', 'rich', 'huggingface_hub', 'tokenizers'} & set(sys.modules);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "minitrans", "inspect", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"minitrans: {tmp_path}/config.json: expected a file, found nothing; ")
