"""Group J: saving. The old checkpoint whole or the new one whole, an error raised, no litter after an error.

Row J 1 and J 17 (a kill at every step) are tests/weights_convert/test_saving.py with its script kill_at_every_step.py.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from minitrans import AutoModel, BertConfig, BertForMaskedLM, BertModel
from minitrans.errors import CheckpointError

SIZES: dict[str, Any] = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 9}  # fmt: skip


def model(value: float, cls: Any = BertModel, **sizes: Any) -> Any:
    made = cls(BertConfig(**{**SIZES, **sizes}))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(value)
    return made


def value_of(folder: Path) -> float:
    """The one value of a checkpoint made by `model`; a mix is an error."""
    values = {
        value
        for tensor in AutoModel.from_pretrained(folder).state_dict().values()
        for value in tensor.flatten().tolist()
    }
    assert len(values) == 1, f"a mix: {values}"
    return float(values.pop())


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(params=["1GB", "900"], ids=["one file", "shards"])
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def old(tmp_path: Path, size: str) -> Path:
    model(1.0).save_pretrained(tmp_path / "x", max_shard_size=size)
    return tmp_path / "x"


FAILING: list[tuple[str, str, int]] = [
    (target, code, number)
    for target in ("os.fsync", "os.replace", "os.close", "os.chmod", "safetensors.torch.save_file", "pathlib.Path.write_text")
    for code, number in (("ENOSPC", errno.ENOSPC), ("EIO", errno.EIO), ("EDQUOT", errno.EDQUOT))
]  # fmt: skip


@pytest.mark.parametrize(("target", "number"), [(f[0], f[2]) for f in FAILING], ids=[f"J 2 J 6 {f[1]} from {f[0]}" for f in FAILING])  # fmt: skip
def test_an_error_at_every_call(
    target: str, number: int, old: Path, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th call fails, for every n until the save gets through: it never reports success, and leaves one checkpoint."""
    owner, _, name = target.rpartition(".")
    holder: Any = {"os": os, "safetensors.torch": __import__("safetensors.torch").torch, "pathlib.Path": Path}[owner]
    right = getattr(holder, name)
    before = content(old)
    for survived in range(60):
        left = survived

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                if name == "close":
                    right(*args)
                raise OSError(number, os.strerror(number))
            return right(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(holder, name, call)
            try:
                model(2.0).save_pretrained(old, max_shard_size=size)
                failed = False
            except OSError as error:
                assert error.errno == number
                failed = True
        assert value_of(old) in (1.0, 2.0)
        if not failed:
            break
        if value_of(old) == 1.0:
            assert content(old) == before, "litter after an error"
        model(1.0).save_pretrained(old, max_shard_size=size)
        assert content(old) == before
    else:
        raise AssertionError("the save never got through")
    assert survived > 0
    assert value_of(old) == 2.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("needs the right to mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_J_2_a_full_disk(small_disk: Path, size: str) -> None:
    folder = small_disk / "x"
    outcomes = set()
    for spare in range(0, 80, 4):
        (small_disk / "ballast").unlink(missing_ok=True)
        model(1.0).save_pretrained(folder, max_shard_size=size)
        before = content(folder)
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        (small_disk / "ballast").write_bytes(b"\0" * max(0, free - spare * 1024))
        try:
            model(2.0).save_pretrained(folder, max_shard_size=size)
            outcomes.add("saved")
            assert value_of(folder) == 2.0
        except OSError as error:
            outcomes.add("refused")
            assert "space" in str(error).lower()
            assert content(folder) == before
    assert outcomes == {"saved", "refused"}


def test_J_3_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        model(1.0).save_pretrained(folder)
        before = content(folder)
        folder.chmod(0o555)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                model(2.0).save_pretrained(folder)
            except OSError as error:
                status = int("ermission denied" not in str(error))
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        folder.chmod(0o755)
        assert content(folder) == before


def _fifo_inside(folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "model.safetensors")


def _folder_inside(folder: Path) -> None:
    (folder / "config.json").mkdir(parents=True)


TARGETS: list[tuple[str, Callable[[Path], Any]]] = [
    ("J 4 a file", lambda path: path.touch()),
    ("J 4 a pipe", os.mkfifo),
    ("J 4 a link to a file", lambda path: [path.with_name("f").touch(), path.symlink_to("f")]),
    ("J 4 a dangling link", lambda path: path.symlink_to("nowhere")),
    ("J 4 a looped link", lambda path: path.symlink_to(path.name)),
    ("J 4 a pipe in place of the weights", _fifo_inside),
    ("J 4 a folder in place of config.json", _folder_inside),
]


@pytest.mark.parametrize("make", [row[1] for row in TARGETS], ids=[row[0] for row in TARGETS])
def test_targets_refused(make: Callable[[Path], Any], tmp_path: Path) -> None:
    make(tmp_path / "x")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises((ValueError, OSError), match="x"):
        model(1.0).save_pretrained(tmp_path / "x")
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_J_4_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "x").symlink_to("real")
    model(1.0).save_pretrained(tmp_path / "x")
    assert value_of(tmp_path / "real") == 1.0


def test_J_5_onto_the_file_it_was_loaded_from(old: Path, size: str) -> None:
    held = {key: tensor for path in old.glob("*.safetensors") for key, tensor in load_file(path).items()}
    torch.save(held, old / "pytorch_model.bin")
    for path in old.glob("model*"):
        path.unlink()
    mapped = AutoModel.from_pretrained(old)
    with torch.no_grad():
        for parameter in mapped.parameters():
            parameter.add_(4.0)
    mapped.save_pretrained(old, max_shard_size=size)
    assert value_of(old) == 5.0
    assert all(bool((parameter == 5.0).all()) for parameter in mapped.parameters())


def test_J_7_several_processes_save_to_one_path(old: Path, size: str) -> None:
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for turn in range(6):
                    shards = size if turn % 2 else "2000"
                    model(10.0 + number).save_pretrained(old, max_shard_size=shards)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert value_of(old) in {10.0, 11.0, 12.0, 13.0}
    assert not [name for name in content(old) if name.startswith(".")]


def test_J_8_a_tensor_called_metadata(tmp_path: Path) -> None:
    """safetensors would write a file that it cannot read."""
    made = model(1.0)
    made.register_parameter("__metadata__", nn.Parameter(torch.ones(2)))
    with pytest.raises(ValueError, match="__metadata__"):
        made.save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_J_9_tied_shared_and_strided_tensors(tmp_path: Path, size: str) -> None:
    made = model(1.0, BertForMaskedLM)
    table = torch.randn(8, 11).T  # not contiguous
    made.get_input_embeddings().weight.data = table
    layer = made.bert.encoder.layer[0]
    layer.attention.query.weight = layer.attention.key.weight  # one parameter under two names
    layer.attention.value.bias.data = torch.ones(1).expand(8)  # one number as eight
    base = torch.randn(3, 8)
    layer.feed_forward_LayerNorm.weight.data, layer.feed_forward_LayerNorm.bias.data = base[0], base[1]  # one storage
    made.save_pretrained(tmp_path, max_shard_size=size)
    again = BertForMaskedLM.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, made.state_dict()[name]) for name, tensor in again.state_dict().items())
    assert again.lm_head.decoder.weight is again.get_input_embeddings().weight


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids="J 10 J 12 {}".format
)
def test_odd_values_to_the_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    made = model(1.0).to(dtype)
    unsigned = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    tiny = torch.finfo(dtype).smallest_normal
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, tiny / 2, -tiny / 4, tiny, 0.0], dtype=dtype)
    bits = odd.view(unsigned)
    bits[0] += 1  # a NaN with a payload
    made.pooler.dense.bias.data = odd
    made.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")["pooler.dense.bias"]
    assert torch.equal(stored.view(unsigned), bits)
    again = AutoModel.from_pretrained(tmp_path)
    assert again.dtype == dtype
    assert torch.equal(again.pooler.dense.bias.detach().view(unsigned), bits)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        pytest.param("zero", torch.zeros(0, 3), id="J 11 no elements"),
        pytest.param("scalar", torch.tensor(2.5), id="J 11 no dimensions"),
        pytest.param("quantised", torch.arange(-3, 4, dtype=torch.int8), id="J 12 int8"),
        pytest.param("flags", torch.tensor([True, False]), id="J 12 bool"),
        pytest.param("ünïcödé 漢字", torch.ones(2), id="J 13 unicode"),
        pytest.param("a\"b'c\\d", torch.ones(2), id="J 13 quotes"),
        pytest.param("line\nbreak\t\x1b[2J", torch.ones(2), id="J 13 newline and escape codes"),
        pytest.param("x" * 10_000, torch.ones(2), id="J 13 10,000 letters"),
    ],
)
def test_parameters_of_a_user(name: str, tensor: torch.Tensor, tmp_path: Path) -> None:
    made = model(1.0)
    made.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
    report = made.save_pretrained(tmp_path)
    assert all(line.isprintable() for line in report.notes)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor(name), tensor)
        assert file.get_tensor(name).dtype == tensor.dtype
    AutoModel.from_pretrained(tmp_path)


def test_J_14_the_parents_are_made(tmp_path: Path) -> None:
    model(1.0).save_pretrained(tmp_path / "a" / "b" / "c")
    assert value_of(tmp_path / "a" / "b" / "c") == 1.0


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002], ids="J 15 umask {:03o}".format)
def test_umask_and_mode(mask: int, tmp_path: Path, size: str) -> None:
    before = os.umask(mask)
    try:
        model(1.0).save_pretrained(tmp_path / "x", max_shard_size=size)
        modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "x").iterdir()}
        assert modes == {0o666 & ~mask}
        (tmp_path / "x" / "config.json").chmod(0o640)
        model(2.0).save_pretrained(tmp_path / "x", max_shard_size=size)
        assert stat.S_IMODE((tmp_path / "x" / "config.json").stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_J_16_the_temporary_folder_does_not_matter(
    old: Path, size: str, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    (small_disk / "ballast").write_bytes(b"\0" * (256 * 1024))
    monkeypatch.setenv("TMPDIR", str(small_disk))
    monkeypatch.setattr(tempfile, "tempdir", None)
    model(2.0).save_pretrained(old, max_shard_size=size)
    assert value_of(old) == 2.0


def test_J_18_fewer_shards_than_before(tmp_path: Path) -> None:
    counts = []
    for number, limit in enumerate(("300", "900", "2000", "1GB", "900")):
        model(float(number)).save_pretrained(tmp_path, max_shard_size=limit)
        assert value_of(tmp_path) == float(number)
        counts.append(len(list(tmp_path.glob("model-*.safetensors"))))
    assert counts[0] > counts[1] > counts[2] > counts[3] == 0
    assert counts[4] == counts[1]


def test_J_18_shards_of_a_stranger_are_not_mixed_in(old: Path) -> None:
    """A save killed long ago by other software may leave its shards; they are not read."""
    (old / "model-00001-of-00009.safetensors").write_bytes(b"half a shard")
    assert value_of(old) == 1.0
    model(2.0).save_pretrained(old)
    assert sorted(content(old)) == ["config.json", "model.safetensors"]


def test_a_staged_file_alone_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".minitrans-staged-00").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="config.json"):
        AutoModel.from_pretrained(tmp_path)
