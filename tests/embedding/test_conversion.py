"""A converted folder of sentence-transformers makes the same vectors; nothing is written outside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minitrans import CheckpointError, Encoder
from tests.embedding.conftest import PLACE, TEXTS, sentence_folder
from weights_convert.conversion import convert


@pytest.fixture
def full(body: str, tmp_path: Path) -> Path:
    """A folder with all kinds of modules."""
    prompts = {"prompts": {"q": "who is "}, "default_prompt_name": "q"}
    return sentence_folder(
        body, tmp_path / "full", {"pooling_mode": "cls"}, head=("Dense", "Normalize"), prompts=prompts
    )


def modules(folder: Path, **paths: str) -> None:
    entries = [{"type": PLACE + kind, "path": path} for kind, path in {"Transformer": "", **paths}.items()]
    (folder / "modules.json").write_text(json.dumps(entries))


def test_the_real_model_embeds_the_same(minilm: Path, tmp_path: Path):
    report = convert(minilm, tmp_path / "new")
    assert {"modules.json", "sentence_bert_config.json", "1_Pooling"} <= {x.name for x in (tmp_path / "new").iterdir()}
    assert "1_Pooling/config.json" in report.notes[-1]
    assert torch.equal(Encoder(tmp_path / "new").encode(TEXTS), Encoder(minilm).encode(TEXTS))


@pytest.mark.parametrize("pickled", [False, True])
def test_every_module_goes_along(full: Path, tmp_path: Path, pickled: bool):
    expected = Encoder(full).encode(TEXTS, normalize=None)
    if pickled:
        weights = full / "2_Dense" / "model.safetensors"
        torch.save(load_file(weights), full / "2_Dense" / "pytorch_model.bin")
        weights.unlink()
    convert(full, tmp_path / "new")
    assert {path.name for path in (tmp_path / "new" / "2_Dense").iterdir()} == {"config.json", "model.safetensors"}
    assert torch.equal(Encoder(tmp_path / "new").encode(TEXTS, normalize=None), expected)


def test_another_conversion_leaves_no_recipe_behind(full: Path, body: str, tmp_path: Path):
    convert(full, tmp_path / "new")
    convert(body, tmp_path / "new", force=True)
    assert torch.equal(Encoder(tmp_path / "new").encode(TEXTS), Encoder(body).encode(TEXTS))


def test_a_module_that_is_not_offered_stays_behind(full: Path, tmp_path: Path):
    modules(full, Pooling="1_Pooling", WordWeights="2_Dense")
    report = convert(full, tmp_path / "new")
    assert not (tmp_path / "new" / "modules.json").exists()
    assert any("modules.json is left out" in note and "WordWeights" in note for note in report.notes)


@pytest.mark.parametrize("path", ["../full/1_Pooling", "/etc", "1_Pooling/..", "a\0b", "./x", "a\\b"])
def test_paths_that_lead_outside_are_refused(full: Path, tmp_path: Path, path: str):
    modules(full, Pooling=path)
    with pytest.raises(CheckpointError, match="expected a path inside the folder"):
        convert(full, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_link_in_the_destination_is_not_followed(full: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="expected a folder in the destination, found a link or a file"):
        convert(full, tmp_path / "new", force=True)
    assert not list((tmp_path / "elsewhere").iterdir())
