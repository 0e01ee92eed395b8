"""Saving: what the reference expects to find, all or nothing on the disk."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from minitrans.errors import CheckpointError
from minitrans.models.bert import BertForMaskedLM, BertForSequenceClassification, BertModel
from minitrans.models.loading import load_model
from minitrans.models.saving import save_model
from weights_convert.journal import JOURNAL, Folder

Make = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def model(reference: Make) -> BertModel:
    return load_model(BertModel, reference("BertModel").folder)[0]


def changed(model: BertModel) -> BertModel:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    return model


def test_a_kill_at_any_step_leaves_the_old_checkpoint_or_the_new_one(tmp_path: Path) -> None:
    script = Path(__file__).with_name("kill_at_every_step.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == 5
    assert all(seen["old"] > 5 and seen["new"] > 5 for seen in outcomes), outcomes


@pytest.mark.slow
def test_a_kill_of_convert_over_a_sentence_encoder_leaves_no_mix(tmp_path: Path) -> None:
    script = Path(__file__).with_name("kill_convert_at_every_step.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == 4
    assert all(min(seen["old"], seen["new"], seen["refused"]) > 5 and not seen["either"] for seen in outcomes), outcomes


@pytest.mark.parametrize("size", ["1GB", "2KB"])
@pytest.mark.parametrize("failing", ["fsync", "replace", "write"])
def test_an_error_is_raised_and_leaves_the_old_checkpoint(
    failing: str, size: str, model: BertModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(model, tmp_path / "x", max_shard_size="2KB")
    before = {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()}

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if failing == "write":
            patch.setattr("safetensors.torch.save_file", refuse)
        else:
            patch.setattr(os, failing, refuse)
        with pytest.raises(OSError, match="No space left"):
            save_model(changed(model), tmp_path / "x", max_shard_size=size)
    assert {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()} == before


def test_an_error_after_the_point_of_no_return_leaves_the_new_checkpoint(
    model: BertModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(model, tmp_path / "x")
    changed(model).config = model.config.updated(hidden_dropout_prob=0.3)
    replace = os.replace

    def refuse_second(source: Any, target: Any) -> None:
        if Path(target).name == "config.json":
            raise OSError(5, "Input/output error")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse_second)
        with pytest.raises(OSError, match="Input/output"):
            save_model(model, tmp_path / "x")
    assert (tmp_path / "x" / JOURNAL).exists()
    again, _ = load_model(BertModel, tmp_path / "x")
    assert all(torch.equal(one, other) for one, other in zip(again.parameters(), model.parameters(), strict=True))
    save_model(model, tmp_path / "x")
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["config.json", "model.safetensors"]


def weights_for_strangers(folder: Path) -> set[float]:
    """What a library that knows no journal finds: the one file if it is there, else what the index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    files = (
        [single]
        if single.exists()
        else [folder / name for name in json.loads(index.read_text())["weight_map"].values()]
    )
    json.loads((folder / "config.json").read_text())
    return {value for file in files for tensor in load_file(file).values() for value in tensor.flatten().tolist()}


@pytest.mark.parametrize("sizes", [("1GB", "1GB"), ("1GB", "2KB"), ("2KB", "1GB"), ("2KB", "5KB")])
def test_with_the_same_configuration_every_reader_sees_the_old_weights_or_the_new(
    sizes: tuple[str, str], model: BertModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(value: float) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(value)

    fill(1.0)
    save_model(model, tmp_path, max_shard_size=sizes[0])
    config = (tmp_path / "config.json").stat()
    seen: list[set[float]] = []

    def watched(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append(weights_for_strangers(tmp_path))
            result = function(*args, **kwargs)
            seen.append(weights_for_strangers(tmp_path))
            return result

        return call

    fill(2.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", watched(os.replace))
        patch.setattr(os, "unlink", watched(os.unlink))  # pathlib's unlink calls it
        save_model(model, tmp_path, max_shard_size=sizes[1])
    assert seen[0] == {1.0}
    assert seen[-1] == {2.0}
    assert [values for values in seen if values not in ({1.0}, {2.0})] == []
    assert (tmp_path / "config.json").stat().st_ino == config.st_ino


def test_a_link_to_the_same_configuration_is_replaced(model: BertModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "one")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "config.json").symlink_to(tmp_path / "one" / "config.json")
    save_model(model, tmp_path / "two")
    assert not (tmp_path / "two" / "config.json").is_symlink()


@pytest.mark.parametrize("journal", [{}, {"moves": {"config.json": "/etc/passwd"}, "remove": []}, {"moves": {"config.json": ".minitrans-staged-/../../x"}, "remove": []}, {"moves": {}, "remove": ["../x"]}, {"moves": {}, "remove": [".."]}, {"moves": [], "remove": []}])  # fmt: skip
def test_a_journal_that_is_not_ours_is_refused(journal: Any, model: BertModel, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    (tmp_path / JOURNAL).write_text(json.dumps(journal))
    with pytest.raises(CheckpointError, match="expected the journal of an interrupted save"):
        load_model(BertModel, tmp_path)
    with pytest.raises(CheckpointError, match="expected the journal of an interrupted save"):
        save_model(model, tmp_path)


def test_saving_where_it_was_loaded_from(reference: Make) -> None:
    folder = reference("BertModel").folder
    model, _ = load_model(BertModel, folder)
    expected = {name: tensor.clone() for name, tensor in changed(model).state_dict().items()}
    save_model(model, folder)
    again, _ = load_model(BertModel, folder)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_links_of_the_hub_s_cache_are_replaced_not_followed(reference: Make, tmp_path: Path) -> None:
    source = reference("BertModel")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).symlink_to(source.folder / name)
    blob = (source.folder / "model.safetensors").read_bytes()
    save_model(changed(load_model(BertModel, snapshot)[0]), snapshot)
    assert (source.folder / "model.safetensors").read_bytes() == blob
    assert not (snapshot / "model.safetensors").is_symlink()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_and_odd_values_are_kept_to_the_bit(dtype: torch.dtype, model: BertModel, tmp_path: Path) -> None:
    model.to(dtype)
    tiny = torch.finfo(dtype).smallest_normal
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, tiny / 2, -tiny / 4], dtype=dtype)
    with torch.no_grad():
        model.pooler.dense.bias[:6] = odd
        model.pooler.dense.weight.data = model.pooler.dense.weight.data.T  # not contiguous
    save_model(model, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert torch.equal(
        stored["pooler.dense.bias"].view(torch.uint8), model.pooler.dense.bias.detach().view(torch.uint8)
    )
    assert torch.equal(stored["pooler.dense.weight"], model.pooler.dense.weight)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    assert load_model(BertModel, tmp_path)[0].dtype == dtype


def test_the_file_says_that_it_is_pytorch_s_and_has_the_usual_mode(model: BertModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "a" / "b")
    path = tmp_path / "a" / "b" / "model.safetensors"
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    path.chmod(0o600)
    save_model(model, tmp_path / "a" / "b")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_shards_open_in_the_reference_and_stale_ones_go(model: BertModel, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    transformers.BertModel(transformers.BertConfig(**transformers_sizes())).save_pretrained(
        folder, max_shard_size="2KB"
    )
    save_model(model, folder, max_shard_size="4KB")
    back, info = transformers.BertModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(back.embeddings.word_embeddings.weight, model.embeddings.word_embeddings.weight)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    names = {path.name for path in folder.iterdir()}
    assert names == {*index["weight_map"].values(), "config.json", "model.safetensors.index.json"}
    assert len(names) > 4
    for name in set(index["weight_map"].values()):
        held = load_file(folder / name)
        assert len(held) == 1 or sum(t.numel() * 4 for t in held.values()) <= 4000
    save_model(model, folder)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}


def transformers_sizes() -> dict[str, int]:
    return {
        "vocab_size": 11,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1MiB", 2**20), ("200 mb", 2 * 10**8), ("77", 77), (12, 12)]
)
def test_sizes(text: Any, size: int) -> None:
    from weights_convert.writing import _bytes_from

    assert _bytes_from(text) == size


@pytest.mark.parametrize("size", ["", "5XB", "-1", 0, "1e3", "MB"])
def test_a_size_that_is_none_is_refused(size: Any, model: BertModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_shard_size must be a number of bytes"):
        save_model(model, tmp_path / "x", max_shard_size=size)
    assert not (tmp_path / "x").exists()


def test_targets_that_cannot_be_written(model: BertModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="expected a folder to save into, found a file"):
        save_model(model, tmp_path / "file")
    (tmp_path / "x" / "model.safetensors").mkdir(parents=True)
    with pytest.raises(ValueError, match="it exists and is not a regular file"):
        save_model(model, tmp_path / "x")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["model.safetensors"]


def test_a_replaced_classifier_is_saved_and_named(reference: Make, tmp_path: Path) -> None:
    model, _ = load_model(BertForSequenceClassification, reference("BertForSequenceClassification").folder)
    model.classifier = nn.Linear(24, 5)
    report = save_model(model, tmp_path)
    assert "classifier.weight: has shape [5, 24] where the configuration says [2, 24]" in report.summary()
    again, _ = load_model(BertForSequenceClassification, tmp_path, overrides={"num_labels": 5})
    assert torch.equal(again.classifier.weight, model.classifier.weight)


def test_a_user_s_parameters_are_saved_under_their_own_name(reference: Make, tmp_path: Path) -> None:
    class Mine(BertForSequenceClassification):
        pass

    model, _ = load_model(Mine, reference("BertForSequenceClassification").folder)
    model.classifier = nn.Sequential(nn.Linear(24, 24), nn.Linear(24, 2))
    report = save_model(model, tmp_path)
    assert "classifier.0.weight: no rule knows this parameter" in report.summary()
    assert "classifier.1.bias" in load_file(tmp_path / "model.safetensors")
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]


def test_a_tie_that_was_cut_is_saved_as_two(reference: Make, tmp_path: Path) -> None:
    model, _ = load_model(BertForMaskedLM, reference("BertForMaskedLM").folder)
    model.lm_head.decoder.weight = nn.Parameter(model.lm_head.decoder.weight.detach() + 1)
    report = save_model(model, tmp_path)
    assert "tie_word_embeddings is False" in report.summary()
    again, _ = load_model(BertForMaskedLM, tmp_path)
    assert torch.equal(again.lm_head.decoder.weight, model.lm_head.decoder.weight)
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_reading_writes_nothing(model: BertModel, tmp_path: Path) -> None:
    save_model(model, tmp_path)
    tmp_path.chmod(0o500)
    try:
        load_model(BertModel, tmp_path)
        assert Folder(tmp_path).has("config.json")
    finally:
        tmp_path.chmod(0o700)
