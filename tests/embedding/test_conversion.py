"""A converted folder of sentence-transformers makes the same vectors; nothing is written outside it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from minitrans import AutoTokenizer, BertTokenizer, CheckpointError, Encoder
from minitrans.checkpoints.conversion import COMPANIONS, convert
from minitrans.tokenizers.folder import PATTERNS
from tests.embedding.conftest import PLACE, TEXTS, sentence_folder


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


def test_another_conversion_leaves_no_tokenizer_behind(full: Path, body: str, tmp_path: Path):
    """tokenizer.json of the older one would be preferred to the vocabulary of the newer."""
    BertTokenizer.from_pretrained(full).save_pretrained(full)
    words = (full / "vocab.txt").read_text().split("\n")
    other = Path(shutil.copytree(body, tmp_path / "other"))
    (other / "vocab.txt").write_text("\n".join([*words[:5], *reversed(words[5:-1])]) + "\n")
    convert(full, tmp_path / "new")
    convert(other, tmp_path / "new", force=True)
    assert AutoTokenizer.from_pretrained(tmp_path / "new")(TEXTS) == AutoTokenizer.from_pretrained(other)(TEXTS)
    assert AutoTokenizer.from_pretrained(other)(TEXTS) != AutoTokenizer.from_pretrained(full)(TEXTS)


def test_files_that_are_nobody_s_stay(full: Path, tmp_path: Path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "notes.txt").write_text("mine")
    convert(full, tmp_path / "new", force=True)
    assert (tmp_path / "new" / "notes.txt").read_text() == "mine"


def test_every_file_that_a_tokenizer_reads_goes_along():
    assert set(PATTERNS) - {"config.json"} <= set(COMPANIONS)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("tokenizer.json", lambda path: path.mkdir(), "expected a regular file"),
        ("tokenizer.json", lambda path: path.write_text("<html>404</html>"), "an HTML page"),
        ("tokenizer_config.json", lambda path: os.truncate(path, 10 * 2**30), "expected at most 67108864 bytes"),
        ("spiece.model", os.mkfifo, "expected a regular file"),
        ("spiece.model", lambda path: path.symlink_to("nowhere"), "a dangling link"),
        ("vocab.txt", lambda path: path.write_bytes(b"\xff\xfe"), "expected UTF-8"),
        ("modules.json", lambda path: path.write_text("{"), "expected JSON"),
        ("modules.json", lambda path: path.write_text('[{"type": "a", "type": "b"}]'), "'type' stands twice"),
        ("modules.json", lambda path: path.write_text("{}"), "expected a list of modules"),
        ("1_Pooling/config.json", lambda path: path.write_text("[]"), "expected a JSON object"),
        ("2_Dense/model.safetensors", lambda path: path.write_bytes(b"x"), "at least 8 bytes"),
    ],
)
def test_a_file_that_is_none_is_found_before_anything_is_written(
    full: Path, tmp_path: Path, file: str, damage: Callable[[Path], Any], message: str
):
    if file == "tokenizer_config.json":
        (full / file).touch()
    damage(full / file)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert(full, tmp_path / "new")
    assert Path(file).name in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_list_of_modules_that_leads_nowhere_is_no_plain_checkpoint(full: Path):
    for file in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (full / file).rename(full / "aside")
        (full / file).symlink_to("nowhere")
        with pytest.raises(CheckpointError, match=f"{file}: expected a file, found a dangling link"):
            Encoder(full)
        (full / "aside").replace(full / file)


def test_a_link_in_the_destination_is_not_followed(full: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="expected a folder in the destination, found a link or a file"):
        convert(full, tmp_path / "new", force=True)
    assert not list((tmp_path / "elsewhere").iterdir())
