"""Files that are broken or mean harm: one clear CheckpointError each, nothing executed, nothing read outside the folder."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from minitrans.checkpoints import inspect
from minitrans.errors import CheckpointError
from minitrans.models.bert import BertModel
from minitrans.models.loading import load_model
from weights_convert.header import read_header
from weights_convert.pickles import load_pickled

Make = Callable[..., Any]


def safetensors_bytes(header: Any, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


GOOD = safetensors_bytes({"a": entry()}, b"12345678")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least 8 bytes, found 0"),
        (GOOD[:5], "at least 8 bytes, found 5"),
        (GOOD[:20], "it is truncated"),
        (GOOD[:-8], "expected 8 bytes of tensors after the header, found 0"),
        (GOOD[:-1], "expected 8 bytes of tensors after the header, found 7"),
        (GOOD + b"x", "expected 8 bytes of tensors after the header, found 9"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer: run `git lfs pull`"),
        (b"<!DOCTYPE html><html></html>", "an HTML page"),
        (b"PK\x03\x04" + b"\0" * 60, "a pickle or zip archive"),
        (b"\x80\x02}q\x00." + b"\0" * 60, "a pickle or zip archive"),
        (struct.pack("<Q", 0), "begins with"),
        (struct.pack("<Q", 2**63), "found one that claims 9223372036854775808"),
        (struct.pack("<Q", 2**64 - 1), "found one that claims"),
        (safetensors_bytes(b"[]"), "begins with"),
        (safetensors_bytes(b"{\xff}"), "expected a JSON header"),
        (safetensors_bytes(b"{\0}"), "expected a JSON header"),
        (safetensors_bytes(b'{"a":' + b"[" * 10**5 + b"}"), "expected a JSON header"),
        (safetensors_bytes({}), "expected tensors, found none"),
        (safetensors_bytes({"__metadata__": {"format": 1}, "a": entry()}, b"12345678"), "__metadata__"),
        (safetensors_bytes(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":1}'), "'a' stands twice"),
        (safetensors_bytes({"a": {"dtype": "F32"}}), "a: expected dtype, shape and data_offsets"),
        (safetensors_bytes({"a": [1]}), "a: expected dtype, shape and data_offsets"),
        (safetensors_bytes({"a": entry("F31")}), "a: expected a dtype of"),
        (safetensors_bytes({"a": entry(["F32"])}), "a: expected a dtype of"),
        (safetensors_bytes({"a": entry(shape=[-2])}), "a: expected a shape"),
        (safetensors_bytes({"a": entry(shape=[-2, -1])}), "a: expected a shape"),
        (safetensors_bytes({"a": entry(shape=[2.0])}), "a: expected a shape"),
        (safetensors_bytes({"a": entry(shape=[True])}), "a: expected a shape"),
        (safetensors_bytes({"a": entry(shape=2)}), "a: expected a shape"),
        (safetensors_bytes({"a": entry(shape=[2**60, 2**60])}), "a: expected 5316"),
        (safetensors_bytes({"a": entry(offsets=[8, 0])}, b"12345678"), "a: expected 8 bytes for F32"),
        (safetensors_bytes({"a": entry(offsets=[-8, 0])}), "a: expected two data_offsets"),
        (safetensors_bytes({"a": entry(offsets=[0])}), "a: expected two data_offsets"),
        (safetensors_bytes({"a": entry(offsets=[4, 12])}, b"1234" * 3), "a: expected to begin at byte 0"),
        (safetensors_bytes({"a": entry(), "b": entry()}, b"12345678"), "b: expected to begin at byte 8 of the data, found 0"),
        (safetensors_bytes({"a": entry(), "b": entry(offsets=[12, 20])}, b"1" * 20), "b: expected to begin at byte 8"),
        (safetensors_bytes({"\x1b[31m" + "x" * 10**6: entry("F31")}), r"\x1b[31mxxx"),
    ],
)  # fmt: skip
def test_a_safetensors_file_that_lies_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    text = str(caught.value)
    assert message in text
    assert "model.safetensors: " in text
    assert len(text) < 600
    assert text.isprintable()


def test_a_header_length_that_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    # The first byte of the header's length may be 0x80, as a pickle's.
    raw = json.dumps({"a": entry()}).encode().ljust(128)
    (tmp_path / "x.safetensors").write_bytes(safetensors_bytes(raw, b"12345678"))
    assert list(read_header(tmp_path / "x.safetensors").tensors) == ["a"]


def test_empty_and_scalar_tensors_are_no_faults(tmp_path: Path) -> None:
    save_file({"s": torch.tensor(1.0), "e": torch.zeros(0, 2**20)}, tmp_path / "x.safetensors")
    assert {k: t.shape for k, t in read_header(tmp_path / "x.safetensors").tensors.items()} == {
        "s": (),
        "e": (0, 2**20),
    }


@given(st.binary(max_size=64), st.integers(0, 200))
def test_any_damage_is_an_error_or_harmless(noise: bytes, at: int) -> None:
    content = bytearray(save({"a": torch.ones(2, 3), "b": torch.ones(4)}))
    content[at : at + len(noise)] = noise
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"damaged-{os.getpid()}.safetensors"
    path.write_bytes(bytes(content))
    try:
        read_header(path)
    except CheckpointError as error:
        assert str(error).isprintable()
    finally:
        path.unlink()


class Bomb:
    def __reduce__(self) -> Any:
        return (os.mkdir, (os.environ["MINITRANS_BOMB"],))


@pytest.fixture
def bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a pickle makes when it is executed."""
    target = tmp_path / "executed"
    monkeypatch.setenv("MINITRANS_BOMB", str(target))
    return target


def zip_of(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return out.getvalue()


def tar_of(data: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        record = tarfile.TarInfo("pickle")
        record.size = len(data)
        archive.addfile(record, io.BytesIO(data))
    return out.getvalue()


def torch_bytes(value: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def test_no_pickle_is_executed(reference: Make, bomb: Path) -> None:
    contents = {
        "zip": torch_bytes({"a": Bomb()}),
        "before 1.6": torch_bytes({"a": Bomb()}, _use_new_zipfile_serialization=False),
        "bare": pickle.dumps({"a": Bomb()}),
        "tar": tar_of(pickle.dumps(Bomb())),
        "deflated": zip_of({"archive/data.pkl": pickle.dumps(Bomb())}, zipfile.ZIP_DEFLATED),
    }
    pickle.loads(pickle.dumps(Bomb()))
    assert bomb.is_dir(), "the bomb must work, or the test shows nothing"
    bomb.rmdir()
    folder = reference("BertModel").folder
    for names in (
        ["pytorch_model.bin"],
        ["model.safetensors"],
        ["pytorch_model-1.bin", "pytorch_model.bin.index.json"],
    ):
        for path in (*folder.glob("model*"), *folder.glob("pytorch*")):
            path.unlink()
        if len(names) == 2:
            (folder / names[1]).write_text(json.dumps({"weight_map": {"a": names[0]}}))
        for kind, content in contents.items():
            (folder / names[0]).write_bytes(content)
            with pytest.raises(CheckpointError, match=names[0]):
                load_model(BertModel, folder)
            with pytest.raises(CheckpointError, match=names[0]):
                inspect(folder)
            assert not bomb.exists(), (names, kind)


def test_the_refusal_names_what_the_pickle_wanted(tmp_path: Path, bomb: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(torch_bytes({"a": Bomb()}))
    with pytest.raises(CheckpointError, match=r"nothing was executed.*(posix|os)\.mkdir"):
        load_pickled(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a file written by torch.save"),
        (b"version https://git-lfs.github.com/spec/v1", "git-lfs"),
        (tar_of(b"x" * 100), "found a tar archive"),
        (torch_bytes({"a": torch.ones(2)})[:-40], "expected a whole"),
        (torch_bytes({"a": torch.ones(2)}, _use_new_zipfile_serialization=False)[:-12], "expected a whole"),
        (torch_bytes([torch.ones(2)]), "expected a mapping of names to tensors, found list"),
        (torch_bytes({}), "expected tensors, found none"),
        (torch_bytes({1: torch.ones(2)}), "expected names as keys, found 1"),
        (torch_bytes({"state_dict": {"a": torch.ones(2)}}), "state_dict: expected a tensor, found"),
        (torch_bytes({"a": 3}), "a: expected a tensor, found int"),
        (torch_bytes({"a": torch.ones(1).expand(10**9)}), "a: expected at most"),
        (torch_bytes({"a": torch.ones(2).to_sparse()}), "expected"),
        (zip_of({"a/data.pkl": b"x" * 100}, zipfile.ZIP_DEFLATED), "a/data.pkl: expected a stored record"),
        (zip_of({"a/data.pkl": b"x", "../../x": b"y"}), "expected a record inside the archive's folder"),
        (zip_of({"a/data.pkl": b"x", "/etc/x": b"y"}), "expected a record inside the archive's folder"),
        (zip_of({"a/data.pkl": b"x", "b/x": b"y"}), "expected one folder in the archive, found 2"),
        (zip_of({"data.pkl": b"x"}), "expected a record inside the archive's folder"),
    ],
)
def test_a_pickle_that_is_no_table_of_tensors_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_pickled(path)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_records_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"x")
        archive.writestr("a/data.pkl", b"y")
    with pytest.raises(CheckpointError, match="expected one record of this name, found two"):
        load_pickled(path)


def test_a_compressed_copy_of_good_weights_is_refused(tmp_path: Path) -> None:
    good = torch_bytes({"a": torch.zeros(1000)})
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(zip_of(records))
    assert list(load_pickled(path)) == ["a"]
    path.write_bytes(zip_of(records, zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointError, match="expected a stored record, found a compressed one"):
        load_pickled(path)


@pytest.mark.parametrize("outside", ["../model.safetensors", "/etc/passwd.safetensors", "sub/x.safetensors", "https://x/y.safetensors", "a\0.safetensors", "..", "", ".hidden.safetensors", "x.bin", "c:x.safetensors", 3, None, ["x"]])  # fmt: skip
def test_an_index_that_leads_elsewhere_is_refused(outside: Any, reference: Make) -> None:
    source = reference("BertModel", folder="outer")
    inner = source.folder / "inner"
    inner.mkdir()
    (inner / "config.json").write_text((source.folder / "config.json").read_text())
    weight_map = dict.fromkeys(source.tensors, outside)
    (inner / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(
        CheckpointError, match=r"index\.json: .*: expected the name of a \.safetensors file in the same folder"
    ):
        load_model(BertModel, inner)


def sharded(reference: Make) -> Any:
    source = reference("BertModel")
    (source.folder / "model.safetensors").unlink()
    keys = list(source.tensors)
    halves = {"one.safetensors": keys[:9], "two.safetensors": keys[9:]}
    for name, part in halves.items():
        save_file({key: source.tensors[key] for key in part}, source.folder / name)
    source.index = {
        "weight_map": {key: name for name, part in halves.items() for key in part},
        "metadata": {"total_size": 9},
    }
    return source


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda index, keys: index.update(weight_map=[]), "weight_map: expected tensor names"),
        (lambda index, keys: index.update(weight_map={}), "weight_map: expected tensor names"),
        (lambda index, keys: index.pop("weight_map"), "weight_map: expected tensor names"),
        (lambda index, keys: index.update(metadata=3), "metadata: expected an object"),
        (lambda index, keys: index["metadata"].update(total_size=2**60), "total_size: expected at most"),
        (lambda index, keys: index["metadata"].update(total_size="1"), "total_size: expected at most"),
        (lambda index, keys: index["weight_map"].pop(keys[0]), "expected every tensor of one.safetensors to be listed"),
        (lambda index, keys: index["weight_map"].update(more="one.safetensors"), "more: expected this tensor in one.safetensors, found none"),
        (lambda index, keys: index["weight_map"].update({keys[0]: "two.safetensors"}), "expected this tensor in two.safetensors, found it in one"),
        (lambda index, keys: index["weight_map"].update({keys[0]: "gone.safetensors"}), "gone.safetensors: expected a file, found nothing"),
    ],
)  # fmt: skip
def test_an_index_that_lies_is_refused(damage: Callable[[Any, Any], Any], message: str, reference: Make) -> None:
    source = sharded(reference)
    path = source.folder / "model.safetensors.index.json"
    path.write_text(json.dumps(source.index))
    load_model(BertModel, source.folder)
    damage(source.index, list(source.tensors))
    path.write_text(json.dumps(source.index))
    with pytest.raises(CheckpointError) as caught:
        load_model(BertModel, source.folder)
    assert message in str(caught.value)


def test_a_tensor_in_two_shards_is_refused(reference: Make) -> None:
    source = sharded(reference)
    key = next(iter(source.tensors))
    save_file({key: source.tensors[key]}, source.folder / "three.safetensors")
    source.index["weight_map"][key] = "three.safetensors"
    (source.folder / "model.safetensors.index.json").write_text(json.dumps(source.index))
    with pytest.raises(CheckpointError, match="expected in one file, found also in"):
        load_model(BertModel, source.folder)


@pytest.mark.parametrize("what", ["nothing", "directory", "dangling", "loop", "fifo", "device"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_something_else_in_place_of_a_file(what: str, name: str, reference: Make) -> None:
    folder = reference("BertModel").folder
    path = folder / name
    path.unlink()
    make: dict[str, Callable[[], Any]] = {
        "nothing": lambda: None,
        "directory": path.mkdir,
        "dangling": lambda: path.symlink_to("nowhere"),
        "loop": lambda: path.symlink_to(path),
        "fifo": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
    }
    make[what]()
    with pytest.raises(CheckpointError, match=name):
        load_model(BertModel, folder)


def test_a_folder_without_weights_says_what_it_has(reference: Make) -> None:
    folder = reference("BertModel").folder
    (folder / "model.safetensors").rename(folder / "tf_model.h5")
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors, .* found config\.json, tf_model\.h5"):
        load_model(BertModel, folder)
