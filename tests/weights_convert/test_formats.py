"""The forms in which weights come: dtypes, pickles, shards, links, and what is fetched from the hub."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from minitrans.checkpoints.verification import verify
from minitrans.models.auto import class_by_name
from minitrans.models.loading import load_model

Make = Callable[..., Any]
IDS = torch.tensor([[3, 4, 5, 6, 7]])


def load(class_name: str, folder: Path, **options: Any) -> Any:
    return load_model(class_by_name(class_name), folder, **options)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out = model(input_ids=IDS)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def reference_logits(class_name: str, folder: Path) -> torch.Tensor:
    return logits(getattr(transformers, class_name).from_pretrained(folder, attn_implementation="eager"))


@pytest.mark.parametrize(
    ("stored", "configured", "asked", "expected"),
    [
        ("float16", None, None, "float16"),
        ("float16", "float32", None, "float32"),
        ("float16", "float32", "auto", "float32"),
        ("bfloat16", None, "auto", "bfloat16"),
        ("float32", "float16", "float64", "float64"),
        ("float64", None, torch.float32, "float32"),
        ("float16", "torch.float32", None, "float32"),
    ],
)
@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_dtype(stored: str, configured: str | None, asked: Any, expected: str, key: str, reference: Make) -> None:
    """B9: as stored, unless config.json or the call says otherwise."""
    source = reference("BertModel")
    source.tensors = {name: tensor.to(getattr(torch, stored)) for name, tensor in source.tensors.items()}
    source.config.pop("dtype")
    if configured is not None:
        source.config[key] = configured
    model, report = load("BertModel", source.write().folder, dtype=asked)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, expected)}
    assert {row.stored for row in report.rows} == {stored}


def test_mixed_dtypes_lose_nothing(reference: Make) -> None:
    source = reference("BertModel")
    source.config.pop("dtype")
    source.tensors["pooler.dense.bias"] = source.tensors["pooler.dense.bias"].half()
    model, _ = load("BertModel", source.write().folder)
    assert model.dtype == torch.float32
    with pytest.raises(ValueError, match="dtype must be one of float16"):
        load("BertModel", source.folder, dtype="int8")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_weights_load(zipped: bool, reference: Make) -> None:
    source = reference("BertForMaskedLM")
    expected = reference_logits("BertForMaskedLM", source.folder)
    # Old files hold tied tensors under every name, in one shared storage.
    source.tensors["cls.predictions.decoder.weight"] = source.tensors["bert.embeddings.word_embeddings.weight"]
    source.write_bin(_use_new_zipfile_serialization=zipped)
    model, report = load("BertForMaskedLM", source.folder)
    assert not report.warnings
    assert not report.notes
    torch.testing.assert_close(logits(model), expected)
    (source.folder / "pytorch_model.bin").unlink()
    assert logits(model).isfinite().all()


def test_safetensors_are_preferred_to_pickles(reference: Make) -> None:
    source = reference("BertModel")
    (source.folder / "pytorch_model.bin").write_bytes(b"never opened")
    load("BertModel", source.folder)


def test_shards_of_the_reference_load(reference: Make, tmp_path: Path) -> None:
    source = reference("BertForMaskedLM")
    model = transformers.BertForMaskedLM.from_pretrained(source.folder)
    model.save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 3
    ours, report = load("BertForMaskedLM", tmp_path / "shards")
    assert not report.warnings
    assert len({row.file for row in report.rows}) > 3
    assert verify(tmp_path / "shards").equal
    # The cache of the hub holds links into a folder of blobs.
    (tmp_path / "snapshot").mkdir()
    for path in (tmp_path / "shards").iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(path)
    assert torch.equal(logits(load("BertForMaskedLM", tmp_path / "snapshot")[0]), logits(ours))


@pytest.mark.parametrize("stored", ["model.safetensors", "pytorch_model.bin"])
def test_pickles_are_fetched_from_the_hub_only_where_there_is_nothing_else(
    stored: str, reference: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = reference("BertModel")
    if stored.endswith(".bin"):
        source.write_bin()
    asked: list[str] = []

    def snapshot_download(name: str, *, allow_patterns: list[str], **options: Any) -> str:
        assert name == "owner/name"
        asked.extend(allow_patterns)
        return str(source.folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    model, _ = load_model(class_by_name("BertModel"), "owner/name")
    assert logits(model).isfinite().all()
    assert ("pytorch_model-*.bin" in asked) == stored.endswith(".bin")


def test_loading_does_not_wake_torch_s_compiler(reference: Make) -> None:
    code = (
        "import sys; from minitrans.models.bert import BertModel; from minitrans.models.loading import load_model;"
        f"load_model(BertModel, {str(reference('BertModel').folder)!r}); assert 'torch._dynamo' not in sys.modules"
    )
    root = str(Path(__file__).resolve().parents[2])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env={**os.environ, "PYTHONPATH": root})
