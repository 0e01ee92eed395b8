"""The translator by itself, on parameters and a table made by hand: no model, no configuration class."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from minitrans.errors import CheckpointError
from weights_convert import (
    ConversionReport,
    file_tensors,
    fill_parameters,
    find_folder,
    open_checkpoint,
    translate,
    write_files,
)
from weights_convert.families.family import Family
from weights_convert.rules import Rename, TableRow, Tied, Transpose

SINK, GATE = "encoder.layer.0.attention.variants.0.sink", "encoder.layer.0.attention.variants.1.gate.weight"


def table(config: Any) -> tuple[TableRow, ...]:
    tie = (Tied("out.weight", "words.weight", switch="tied"),) if config.tied else ()
    return (
        Rename("words.weight", "table.weight"),
        Rename("out.weight", "head.weight"),
        Transpose("h.{layer}.w", "encoder.layer.{layer}.attention.query.weight"),
        *tie,
    )


FAMILY = Family(prefix="toy", table=table, fresh=frozenset({"head"}))
CONFIG = SimpleNamespace(tied=False)


def parameters(*extra: str) -> dict[str, torch.Tensor]:
    names = ("toy.table.weight", "head.weight", "toy.encoder.layer.0.attention.query.weight")
    return {name: torch.zeros(3, 3) for name in names} | {f"toy.{name}": torch.full((2,), 7.0) for name in extra}


def read(folder: Path, into: dict[str, torch.Tensor], config: Any = CONFIG) -> ConversionReport:
    with open_checkpoint(find_folder(folder)) as checkpoint:
        job = translate(checkpoint, FAMILY, config, {name: tuple(p.shape) for name, p in into.items()})
        job.require_sound("Toy")
        fill_parameters(job, into)
    return job.report


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    weights = torch.arange(27.0).reshape(3, 3, 3)
    tensors = dict(zip(("toy.words.weight", "out.weight", "toy.h.0.w"), weights.unbind(), strict=True))
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / "model.safetensors")
    return tmp_path


def test_a_square_matrix_is_turned_and_turned_back(stored: Path, tmp_path: Path) -> None:
    ours, report = parameters(), ConversionReport()
    rows = read(stored, ours).rows
    assert [(row.target, row.rule) for row in rows] == [
        ("toy.table.weight", "Rename"),
        ("head.weight", "Rename"),
        ("toy.encoder.layer.0.attention.query.weight", "Transpose"),
    ]
    theirs = load_file(stored / "model.safetensors")
    assert torch.equal(ours["toy.encoder.layer.0.attention.query.weight"], theirs["toy.h.0.w"].T)
    write_files(tmp_path / "new", file_tensors(ours, FAMILY, CONFIG, report), {"model_type": "toy"}, report)
    again = load_file(tmp_path / "new" / "model.safetensors")
    assert {key: tensor.tolist() for key, tensor in again.items()} == {
        key: tensor.tolist() for key, tensor in theirs.items()
    }
    assert not report.notes


def test_parameters_of_a_variant_are_fresh_where_the_file_has_none(stored: Path) -> None:
    ours = parameters(SINK, GATE)
    report = read(stored, ours)
    assert report.fresh == [f"toy.{SINK}", f"toy.{GATE}"]
    assert ours[f"toy.{SINK}"].tolist() == [7.0, 7.0], "its own values stay"
    assert not report.unknown


def test_parameters_of_a_variant_go_there_and_back_by_their_own_names(stored: Path, tmp_path: Path) -> None:
    ours, saved = parameters(SINK), ConversionReport()
    read(stored, ours)
    ours[f"toy.{SINK}"] = torch.tensor([0.25, -3.0])
    write_files(tmp_path / "new", file_tensors(ours, FAMILY, CONFIG, saved), {"model_type": "toy"}, saved)
    assert not saved.notes
    assert load_file(tmp_path / "new" / "model.safetensors")[f"toy.{SINK}"].tolist() == [0.25, -3.0]
    back = parameters(SINK, GATE)
    report = read(tmp_path / "new", back)
    assert report.fresh == [f"toy.{GATE}"]
    assert back[f"toy.{SINK}"].tolist() == [0.25, -3.0]
    plain = read(tmp_path / "new", parameters())
    assert list(plain.unknown) == [f"toy.{SINK}"], "a model without the variant says that it does not use it"


def test_a_variant_s_parameter_of_another_shape_is_a_fault(stored: Path) -> None:
    tensors = load_file(stored / "model.safetensors")
    save_file({**tensors, f"toy.{SINK}": torch.zeros(5)}, stored / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"variants\.0\.sink: expected shape \[2\] for .*, found \[5\]"):
        read(stored, parameters(SINK))


def test_a_tie_that_the_file_breaks_is_told_before_anything_is_filled(stored: Path) -> None:
    with open_checkpoint(find_folder(stored)) as checkpoint:
        shapes = {name: tuple(p.shape) for name, p in parameters().items()}
        job = translate(checkpoint, FAMILY, SimpleNamespace(tied=True), shapes)
    assert job.broken == {"tied": False}
    assert "loaded as two, tied is False now" in job.report.notes[0]
