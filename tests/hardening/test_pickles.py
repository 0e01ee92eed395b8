"""Group F: pickles in every disguise. Nothing in them is executed; only plain tables of tensors load."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import torch

BIN = "pytorch_model.bin"


class Evil:
    """Makes the canary folder when it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.mkdir, (os.environ["MINITRANS_CANARY"],))


class Built:
    """The same through BUILD: a method of a harmless class is handed the state."""

    def __reduce__(self) -> Any:
        return (list, (), None, iter([]), iter([(Evil(), 1)]))


def torch_bytes(value: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def old_bytes(value: Any) -> bytes:
    return torch_bytes(value, _use_new_zipfile_serialization=False)


def tar_of(**members: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            record = tarfile.TarInfo(name.replace("__", "../"))
            record.size = len(data)
            archive.addfile(record, io.BytesIO(data))
    return out.getvalue()


def records_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_of(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return out.getvalue()


def weights(case: Any) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = case.tensors()
    return tensors


def with_evil(case: Any) -> dict[str, Any]:
    return {**weights(case), "evil": Evil()}


def dotted_global() -> bytes:
    """STACK_GLOBAL with a dotted name, which resolves attributes step by step: `posix` through `torch.serialization.os`."""
    raw = b"\x80\x04\x8c\x13torch.serialization\x8c\x08os.mkdir\x93\x8c"
    path = os.environ["MINITRANS_CANARY"].encode()
    raw += bytes([len(path)]) + path + b"\x85R."
    pickletools.dis(raw, out=io.StringIO())
    return raw


def with_pickle(case: Any, code: bytes) -> bytes:
    """The good archive with another data.pkl."""
    records = records_of(torch_bytes(weights(case)))
    return zip_of({name: code if name.endswith("data.pkl") else data for name, data in records.items()})


def short_storage(case: Any) -> bytes:
    records = records_of(torch_bytes(weights(case)))
    return zip_of({name: data[:-8] if "/data/" in name else data for name, data in records.items()})


def changed(case: Any, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> bytes:
    return zip_of(change(records_of(torch_bytes(weights(case)))))


def deflated(case: Any) -> bytes:
    return zip_of(records_of(torch_bytes(weights(case))), zipfile.ZIP_DEFLATED)


def bomb(case: Any) -> bytes:
    """A GB of zeros in a MB."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", records_of(torch_bytes({}))["archive/data.pkl"])
        with archive.open("archive/data/0", "w") as record:
            for _ in range(64):
                record.write(b"\0" * 2**22)
    return out.getvalue()


def lying_sizes(case: Any) -> bytes:
    """A central directory that promises more than the file holds."""
    raw = bytearray(torch_bytes(weights(case)))
    at = raw.rindex(b"PK\x01\x02")
    raw[at + 20 : at + 28] = (2**31 - 1).to_bytes(4, "little") * 2
    return bytes(raw)


def strides(**layout: Any) -> Callable[[Any], bytes]:
    return lambda case: torch_bytes({**weights(case), "big": torch.ones(1).expand(layout["size"])})


def beyond(case: Any) -> bytes:
    """A tensor that begins past the end of its storage, by hand: torch would not make it."""
    held = {**weights(case), "pooler.dense.bias": torch.arange(24.0)}
    records = records_of(torch_bytes(held))
    code = next(data for name, data in records.items() if name.endswith("data.pkl"))
    at = code.index(b"pooler.dense.bias")
    offset = code.index(b"QK\x00K\x18\x85", at)  # persistent id, offset 0, (24,)
    return with_code(records, code[:offset] + b"QK\xf0K\x18\x85" + code[offset + 6 :])


def with_code(records: dict[str, bytes], code: bytes) -> bytes:
    return zip_of({name: code if name.endswith("data.pkl") else data for name, data in records.items()})


def write(make: Callable[[Any], bytes], name: str = BIN) -> Callable[[Any], None]:
    def damage(case: Any) -> None:
        content = make(case)
        case.path().unlink()
        case.path(name).write_bytes(content)

    return damage


def disguised(make: Callable[[Any], bytes]) -> Callable[[Any], None]:
    return lambda case: case.path().write_bytes(make(case)) and None


def in_a_shard(make: Callable[[Any], bytes]) -> Callable[[Any], None]:
    def damage(case: Any) -> None:
        keys, content = list(weights(case)), make(case)
        case.path().unlink()
        case.path("pytorch_model-1.bin").write_bytes(content)
        index = {"weight_map": dict.fromkeys(keys, "pytorch_model-1.bin")}
        case.path("pytorch_model.bin.index.json").write_text(json.dumps(index))

    return damage


NESTED = b"\x80\x02}X\x01\0\0\0a" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"s."
CODE = "nothing was executed"
ROWS: list[tuple[str, Callable[[Any], None], tuple[str, ...]]] = [
    ("F code in a zip", write(lambda case: torch_bytes(with_evil(case))), (BIN, CODE, "mkdir")),
    ("F code before 1.6", write(lambda case: old_bytes(with_evil(case))), (BIN, CODE)),
    ("F code in a bare pickle", write(lambda case: pickle.dumps(with_evil(case), 2)), (BIN, "torch.save")),
    ("F code in a pickle of protocol 0", write(lambda case: pickle.dumps(Evil(), 0)), (BIN, "torch.save")),
    ("F code through BUILD", write(lambda case: torch_bytes({**weights(case), "evil": Built()})), (BIN,)),
    ("F code in a dotted global", write(lambda case: with_pickle(case, dotted_global())), (BIN, CODE)),
    ("F code in a bare dotted global", write(lambda case: dotted_global()), (BIN,)),
    ("F code named .safetensors", disguised(lambda case: torch_bytes(with_evil(case))), ("model.safetensors", "pickle or zip")),
    ("F old code named .safetensors", disguised(lambda case: old_bytes(with_evil(case))), ("model.safetensors", "pickle or zip")),
    ("F bare pickle named .safetensors", disguised(lambda case: pickle.dumps(Evil())), ("model.safetensors",)),
    ("F tar named .safetensors", disguised(lambda case: tar_of(pickle=pickle.dumps(Evil()))), ("model.safetensors",)),
    ("F code in a .tar", write(lambda case: tar_of(pickle=pickle.dumps(Evil()), sys_info=b"\x80\x02}.", tensors=b"", storages=b"")), (BIN, "a tar archive")),
    ("F tar-slip", write(lambda case: tar_of(__executed=b"x", pickle=pickle.dumps(Evil()))), (BIN, "a tar archive")),
    ("F code in a shard", in_a_shard(lambda case: torch_bytes(with_evil(case))), ("pytorch_model-1.bin", CODE)),
    ("F old code in a shard", in_a_shard(lambda case: old_bytes(with_evil(case))), ("pytorch_model-1.bin", CODE)),
    ("F zip-slip", write(lambda case: changed(case, lambda r: {**r, "../../executed": b"x"})), (BIN, "../../executed", "inside")),
    ("F zip with an absolute name", write(lambda case: changed(case, lambda r: {**r, "/tmp/executed": b"x"})), (BIN, "/tmp/executed")),
    ("F zip with two folders", write(lambda case: changed(case, lambda r: {**r, "b/c": b"x"})), (BIN, "found 2")),
    ("F zip without data.pkl", write(lambda case: changed(case, lambda r: {n: d for n, d in r.items() if "data.pkl" not in n})), (BIN, "whole torch file")),
    ("F zip without a storage", write(lambda case: changed(case, lambda r: {n: d for n, d in r.items() if not n.endswith("/data/3")})), (BIN,)),
    ("F zip of something else", write(lambda case: zip_of({"word/document.xml": b"<x/>"})), (BIN, "whole torch file")),
    ("F TorchScript", write(lambda case: changed(case, lambda r: {**r, "archive/constants.pkl": b"\x80\x02)."})), (BIN, "TorchScript")),
    ("F truncated", write(lambda case: torch_bytes(weights(case))[:-500]), (BIN, "whole")),
    ("F truncated before 1.6", write(lambda case: old_bytes(weights(case))[:-500]), (BIN, "whole")),
    ("F cut to 20 bytes", write(lambda case: old_bytes(weights(case))[:20]), (BIN,)),
    ("F empty", write(lambda case: b""), (BIN, "torch.save")),
    ("F git-lfs pointer", write(lambda case: b"version https://git-lfs.github.com/spec/v1\n"), (BIN, "git lfs pull")),
    ("F HTML page", write(lambda case: b"<html></html>"), (BIN, "HTML")),
    ("F safetensors named .bin", write(lambda case: case.path().read_bytes()), (BIN, "torch.save")),
    ("F short storage", write(short_storage), (BIN, "expected a record of", "bytes in the archive")),
    ("F tensor past its storage", write(beyond), (BIN,)),
    ("F deflated", write(deflated), (BIN, "stored record")),
    ("F zip bomb", write(bomb), (BIN, "stored record")),
    ("F sizes that lie", write(lying_sizes), (BIN,)),
    ("F stride bomb", write(strides(size=10**9)), (BIN, "big", "4000000000")),
    ("F stride bomb of 2^60", write(strides(size=2**60)), (BIN, "big")),
    ("F a list", write(lambda case: torch_bytes(list(weights(case).values()))), (BIN, "found list")),
    ("F a tensor", write(lambda case: torch_bytes(torch.ones(3))), (BIN, "found Tensor")),
    ("F nothing", write(lambda case: torch_bytes({})), (BIN, "found none")),
    ("F int keys", write(lambda case: torch_bytes(dict(enumerate(weights(case).values())))), (BIN, "names as keys", "0")),
    ("F a value that is no tensor", write(lambda case: torch_bytes({**weights(case), "epoch": 3})), (BIN, "epoch", "found int")),
    ("F nested state_dict", write(lambda case: torch_bytes({"state_dict": weights(case)})), (BIN, "state_dict", "expected a tensor")),
    ("F nested 10^5", write(lambda case: with_pickle(case, NESTED)), (BIN, "a: expected a tensor, found list")),
    ("F a sparse tensor", write(lambda case: torch_bytes({**weights(case), "s": torch.eye(3).to_sparse()})), (BIN,)),
    ("F a meta tensor", write(lambda case: torch_bytes({**weights(case), "m": torch.ones(3, device="meta")})), (BIN,)),
    ("F a quantised tensor", write(lambda case: torch_bytes({**weights(case), "q": _quantised()})), (BIN, "q")),
    ("F escape codes in a name", write(lambda case: torch_bytes({"\x1b[2J": 3})), (BIN, r"\x1b[2J")),
]  # fmt: skip


def _quantised() -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("damage", "words"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_refused(damage: Callable[[Any], None], words: tuple[str, ...], case: Any, refused: Any) -> None:
    damage(case)
    refused(*words)


def test_the_bombs_work(case: Any) -> None:
    """Or the rows above would show nothing."""
    for code in (pickle.dumps(Evil()), dotted_global()):
        pickle.loads(code)
        assert case.canary.is_dir()
        case.canary.rmdir()


WELCOME: list[tuple[str, Callable[[Any], None]]] = [
    ("F a good .bin", write(lambda case: torch_bytes(weights(case)))),
    ("F a good .bin before 1.6", write(lambda case: old_bytes(weights(case)))),
    ("F a good .bin of Parameters", write(lambda case: torch_bytes({k: torch.nn.Parameter(t) for k, t in weights(case).items()}))),
    ("F good shards", in_a_shard(lambda case: torch_bytes(weights(case)))),
    ("F a good safetensors beside an evil .bin", lambda case: case.path(BIN).write_bytes(torch_bytes({"evil": Evil()})) and None),
    ("F a good safetensors beside evil other files", lambda case: [case.path(n).write_bytes(pickle.dumps(Evil())) for n in ("rng_state.pth", "optimizer.pt", "training_args.bin", "scheduler.pt")] and None),
]  # fmt: skip


@pytest.mark.parametrize("damage", [row[1] for row in WELCOME], ids=[row[0] for row in WELCOME])
def test_welcome(damage: Callable[[Any], None], case: Any, harmless: Any) -> None:
    damage(case)
    harmless()
