"""The comparison with the reference finds what is wrong, and where."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from minitrans.checkpoints.verification import compare, verify
from minitrans.errors import CheckpointError, NotSupportedError
from minitrans.models.bert import BertForMaskedLM, BertModel
from minitrans.models.loading import load_model

Make = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]


def both(class_name: str, cls: Any, folder: Any) -> tuple[Any, Any]:
    theirs = getattr(transformers, class_name).from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    return load_model(cls, folder, dtype="float64")[0], theirs.eval()


def test_a_real_checkpoint_equals_the_reference(minilm: Any) -> None:
    result = verify(minilm)
    assert result.equal, result.summary()
    assert "BertModel equals the reference in float64" in result.summary()
    assert result.worst("forward") < 1e-12


@pytest.mark.parametrize(
    ("damage", "first"),
    [
        (lambda m: m.embeddings.LayerNorm.bias.add_(1e-6), "embeddings.LayerNorm"),
        (lambda m: m.encoder.layer[0].attention.query.weight.mul_(1.001), "encoder.layer.0.attention.self.query"),
        (lambda m: m.encoder.layer[1].feed_forward.up.bias.add_(1e-6), "encoder.layer.1.intermediate.dense"),
        (lambda m: m.encoder.layer[1].feed_forward.down.bias[3].add_(1e-6), "encoder.layer.1.output.dense"),
        (lambda m: m.pooler.dense.bias.add_(1e-6), "pooler.dense"),
    ],
)
def test_the_first_module_that_diverges_is_named(damage: Callable[[Any], Any], first: str, reference: Make) -> None:
    ours, theirs = both("BertModel", BertModel, reference("BertModel").folder)
    with torch.no_grad():
        damage(ours)
    result = compare(ours, theirs, "BertModel")
    assert not result.equal
    assert result.first_diverging is not None
    assert (result.first_diverging.kind, result.first_diverging.name) == ("forward", first)
    assert f"first at forward of {first}" in result.summary()


def test_a_wrong_epsilon_is_found(reference: Make) -> None:
    ours, theirs = both("BertModel", BertModel, reference("BertModel").folder)
    ours.embeddings.LayerNorm.eps = 1e-6
    assert not compare(ours, theirs, "BertModel").equal


def test_a_wrong_gradient_is_found_where_the_outputs_agree(reference: Make) -> None:
    ours, theirs = both("BertForMaskedLM", BertForMaskedLM, reference("BertForMaskedLM").folder)
    ours.lm_head.dense.weight.register_hook(lambda gradient: gradient * 1.0001)
    result = compare(ours, theirs, "BertForMaskedLM")
    assert result.worst("forward") < 1e-12
    assert result.first_diverging is not None
    assert result.first_diverging.kind == "gradient"
    assert result.first_diverging.name == "cls.predictions.transform.dense.weight"


def test_nan_is_not_equal(reference: Make) -> None:
    ours, theirs = both("BertModel", BertModel, reference("BertModel").folder)
    with torch.no_grad():
        ours.pooler.dense.bias[0] = float("nan")
    assert compare(ours, theirs, "BertModel").worst("forward") == float("inf")


def test_without_the_reference_it_says_so(reference: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = reference("BertModel").folder
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(NotSupportedError, match="pip install transformers"):
        verify(folder)


def test_what_cannot_be_compared_is_refused(reference: Make) -> None:
    source = reference("BertModel")
    source.config["architectures"] = ["EvilModel\x1b"]
    with pytest.raises(CheckpointError, match=r"architectures: expected a class we know, found \['EvilModel"):
        verify(source.write().folder)
    assert verify(source.folder, class_name="BertModel").equal
    source.config["attention"] = {"name": "sliding_window", "window": 2}
    with pytest.raises(NotSupportedError, match="only full attention"):
        verify(source.write().folder, class_name="BertModel")


def test_a_head_that_the_file_lacks_is_said_to_be_missing(reference: Make) -> None:
    source = reference("BertModel")
    with pytest.raises(
        CheckpointError, match=r"expected the head of BertForMaskedLM, found none: lm_head.*not compared"
    ):
        verify(source.folder, class_name="BertForMaskedLM")


def test_nothing_of_the_reference_s_reports_reaches_the_terminal(reference: Make) -> None:
    source = reference("BertForPreTraining")
    done = subprocess.run(
        [sys.executable, "-m", "minitrans", "verify", str(source.folder), "--as", "BertModel"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "BertModel equals the reference" in done.stdout
