"""A tiny valid checkpoint, and a guarded process in which a damaged copy of it is opened through the public API."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import resource
import shutil
import signal
import stat
import struct
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

torch.set_num_threads(1)

from minitrans import AutoModel, AutoTokenizer, BertConfig, BertModel  # noqa: E402
from minitrans.checkpoints import convert, inspect  # noqa: E402
from minitrans.cli.app import main  # noqa: E402
from minitrans.errors import CheckpointError  # noqa: E402

SECONDS = 5.0  # of the processor, so that a busy machine is not blamed on the code
HANG = 120  # seconds by the clock
SPARE_BYTES = 200 * 1024 * 1024
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "##a", "##b", "##c", "un", "##e", "the")  # fmt: skip
SIZES: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 33,
}


@dataclass
class Outcome:
    """What opening a folder did: per call the error (kind and text) or None, and what the process was seen to do."""

    errors: dict[str, tuple[str, str] | None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    grown: int = 0
    forbidden: list[str] = field(default_factory=list)
    died: str | None = None


class Guard:
    """An audit hook: notes whatever Python does that opening a stranger's folder must never do."""

    FORBIDDEN = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link", "os.symlink", "os.system",
                 "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.bind", "pickle.find_class",
                 "shutil.rmtree", "ctypes.dlopen", "tempfile.mkstemp")  # fmt: skip

    def __init__(self, inside: Sequence[Path], writable: Path) -> None:
        prefixes = [*map(str, inside), sys.prefix, sys.base_prefix, "/proc/self", "/dev/urandom", "/usr/lib", str(ROOT)]
        self.inside = tuple(os.path.realpath(prefix) for prefix in prefixes)
        self.writable = os.path.realpath(writable)
        self.seen: list[str] = []
        self.active = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open":
            path, mode, flags = arguments
            if not isinstance(path, str | bytes | os.PathLike):
                return
            real = os.path.realpath(os.fsdecode(path))
            writes = bool(flags and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or any(
                c in "wax+" for c in mode or ""
            )
            if writes and not real.startswith(self.writable):
                self.seen.append(f"wrote {real}")
            elif not real.startswith((*self.inside, self.writable)):
                self.seen.append(f"read {real}")
        elif event in self.FORBIDDEN and not any(self.writable in str(each) for each in arguments):
            self.seen.append(f"{event} {arguments!r}"[:200])


ROOT = Path(__file__).resolve().parents[2]


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise AssertionError(key)


def _child(calls: dict[str, Callable[[], Any]], guard: Guard, room: int) -> Outcome:
    found = Outcome()
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("minitrans").addHandler(handler)
    sys.addaudithook(guard)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    limit = _status("VmSize") + room + SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(HANG)
    start = time.process_time()
    guard.active = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, call in calls.items():
            try:
                call()
                found.errors[name] = None
            except BaseException as error:
                kind = next(
                    c.__name__
                    for c in (CheckpointError, ValueError, TypeError, MemoryError, BaseException)
                    if isinstance(error, c)
                )
                found.errors[name] = (kind if kind != "BaseException" else type(error).__name__, str(error))
    guard.active = False
    found.seconds = time.process_time() - start
    found.grown = max(0, _status("VmHWM") - before)
    found.warnings = [record.getMessage() for record in records]
    found.forbidden = guard.seen
    return found


def guarded(calls: dict[str, Callable[[], Any]], inside: Sequence[Path], writable: Path, room: int = 0) -> Outcome:
    """Runs the calls one after the other in a process of their own, whose memory may grow by `room` + 200 MB."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            payload = json.dumps(_child(calls, Guard(inside, writable), room).__dict__).encode()
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(payload)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        payload = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 0:
        return Outcome(died=f"exit {code}")
    return Outcome(**json.loads(payload))


def command(*arguments: object) -> None:
    """The command line; what it says with exit code 2 is raised as if it were the library's own."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    if code == 0:
        return
    assert (code, out.getvalue()) == (2, "")
    starts = {line[:11] for line in err.getvalue().splitlines()}
    assert starts == {"minitrans: "}, err.getvalue()[:2000]
    raise CheckpointError(err.getvalue())


def folder_bytes(folder: Path) -> int:
    """The bytes that the regular files of a folder take on the disk: holes of a sparse file do not count."""
    return sum(e.lstat().st_blocks * 512 for e in folder.rglob("*") if stat.S_ISREG(e.lstat().st_mode))


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Names, sizes and modification times."""
    return {str(e.relative_to(folder)): (e.lstat().st_size, e.lstat().st_mtime_ns) for e in sorted(folder.rglob("*"))}


@dataclass
class Case:
    """A damaged folder, and beside it (outside) what a hostile one would like to reach."""

    folder: Path
    canary: Path

    def path(self, name: str = "model.safetensors") -> Path:
        return self.folder / name

    def header(self, name: str = "model.safetensors") -> tuple[dict[str, Any], bytes]:
        """The parsed header of a safetensors file, and the bytes after it."""
        raw = self.path(name).read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        return json.loads(raw[8 : 8 + length]), raw[8 + length :]

    def write_header(self, header: Any, data: bytes, name: str = "model.safetensors") -> None:
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        self.path(name).write_bytes(struct.pack("<Q", len(raw)) + raw + data)

    def tensors(self) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        return load_file(self.path())

    def write_tensors(self, tensors: dict[str, torch.Tensor], name: str = "model.safetensors") -> None:
        from safetensors.torch import save_file

        save_file(tensors, self.path(name), metadata={"format": "pt"})

    def config(self) -> dict[str, Any]:
        stored: dict[str, Any] = json.loads(self.path("config.json").read_text())
        return stored

    def write_config(self, **changes: Any) -> None:
        self.path("config.json").write_text(json.dumps({**self.config(), **changes}))

    def write_bin(self, value: Any = None, name: str = "pytorch_model.bin", **options: Any) -> None:
        """Replaces the weights by a file of torch.save."""
        value = self.tensors() if value is None else value
        self.path().unlink(missing_ok=True)
        torch.save(value, self.path(name), **options)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The valid checkpoint: BERT, two layers, a vocabulary."""
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    BertModel(BertConfig(**SIZES)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


@pytest.fixture
def case(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A copy of the valid checkpoint to be damaged; `canary` is a folder that hostile code would make."""
    canary = tmp_path / "executed"
    monkeypatch.setenv("MINITRANS_CANARY", str(canary))
    shutil.copytree(whole, tmp_path / "folder")
    return Case(tmp_path / "folder", canary)


@pytest.fixture(scope="session")
def warm(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every import that loading makes, made: what a guarded process opens after that is the checkpoint's doing."""
    AutoModel.from_pretrained(whole)
    AutoTokenizer.from_pretrained(whole)("a the")
    inspect(whole)
    convert(whole, tmp_path_factory.mktemp("warm") / "out", class_name="BertModel")
    command("convert", whole, tmp_path_factory.mktemp("warm") / "again", "--as", "BertModel")
    bin_folder = tmp_path_factory.mktemp("warm-bin")
    shutil.copy(whole / "config.json", bin_folder)
    torch.save(BertModel(BertConfig(**SIZES)).state_dict(), bin_folder / "pytorch_model.bin")
    with contextlib.suppress(CheckpointError):
        AutoModel.from_pretrained(bin_folder)


@pytest.fixture
def opened(case: Case, tmp_path: Path, warm: None) -> Callable[..., Outcome]:
    """Opens the damaged folder in every public way, checks what holds for all of them, and returns what came out."""

    def run(allowed: Sequence[Path] = (), tokenizer: bool = False) -> Outcome:
        before = listing(case.folder)
        target = tmp_path / "converted"
        calls: dict[str, Callable[[], Any]] = {
            "from_pretrained": lambda: AutoModel.from_pretrained(case.folder),
            "convert": lambda: convert(case.folder, target, class_name="BertModel"),
            "command": lambda: command("convert", case.folder, target, "--as", "BertModel", "--force"),
        }
        if tokenizer:
            calls = {"tokenizer": lambda: AutoTokenizer.from_pretrained(case.folder)("a the un")}
        size = folder_bytes(case.folder)
        found = guarded(calls, [case.folder, *allowed], target, room=2 * size)
        assert found.died is None, f"the process died: {found.died}"
        assert found.seconds < SECONDS, f"took {found.seconds:.1f} s"
        assert found.grown < 2 * size + SPARE_BYTES, f"memory grew by {found.grown}"
        assert not found.forbidden, found.forbidden
        assert not case.canary.exists(), "code was executed"
        assert listing(case.folder) == before, "the folder was changed"
        if found.errors.get("convert") is not None:
            assert not target.exists(), "a half-converted checkpoint was left"
        return found

    return run


def _check_refusal(found: Outcome, words: Sequence[str]) -> None:
    for name, error in found.errors.items():
        assert error is not None, f"{name} succeeded"
        kind, text = error
        assert kind == "CheckpointError", f"{name}: {kind}: {text[:300]}"
        lines = text.splitlines()
        assert all(line.isprintable() and len(line) < 900 for line in lines), text[:2000]
        assert len(lines) <= 52
        for word in words:
            assert word in text, f"{name}: {word!r} is not in {text[:600]!r}"


@pytest.fixture
def refused(opened: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Asserts that every public way of opening the folder raises a CheckpointError that holds all the words."""

    def check(*words: str, **options: Any) -> Outcome:
        found = opened(**options)
        _check_refusal(found, words)
        return found

    return check


@pytest.fixture
def harmless(opened: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Asserts that the folder opens, with one warning for each of the words."""

    def check(*words: str, **options: Any) -> Outcome:
        found = opened(**options)
        assert not any(found.errors.values()), found.errors
        for word in words:
            assert any(word in line for line in found.warnings), found.warnings
        assert all(line.isprintable() and len(line) < 900 for line in found.warnings)
        return found

    return check
