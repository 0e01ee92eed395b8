"""Group I: what lies in place of a file. Everything is looked at by `stat` before it is opened.

Group H, broken vocabularies, has its table in tests/tokenizers/test_bad_files.py; here are the rows that only a guarded
process can try: devices, pipes, huge files, code and paths in tokenizer_config.json.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minitrans import AutoModel, AutoTokenizer
from minitrans.errors import CheckpointError

FILES = ("model.safetensors", "config.json", "vocab.txt", "pytorch_model.bin", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json")  # fmt: skip
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json")


def _nothing(path: Path) -> None:
    """The file is taken away."""


def _folder(path: Path) -> None:
    path.mkdir()


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _loop(path: Path) -> None:
    other = path.with_name("other")
    other.symlink_to(path.name)
    path.symlink_to(other.name)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _device(path: Path) -> None:
    os.mknod(path, 0o20666, os.makedev(1, 5))


def _terminal(path: Path) -> None:
    path.symlink_to("/dev/tty")


def _socket(path: Path) -> None:
    import socket

    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * 2**30)


KINDS: list[tuple[str, Callable[[Path], None], str]] = [
    ("directory", _folder, "regular file"),
    ("dangling link", _dangling, "a dangling link"),
    ("loop of links", _loop, "symbolic links"),
    ("pipe", _pipe, "regular file"),
    ("link to /dev/zero", _zeros, "regular file"),
    ("device of its own", _device, "regular file"),
    ("link to a terminal", _terminal, ""),
    ("socket", _socket, "regular file"),
    ("10 GiB sparse", _sparse, ""),
]
ROWS = [(name, *kind) for name in FILES for kind in KINDS]


@pytest.mark.parametrize(("name", "make", "word"), [(row[0], row[2], row[3]) for row in ROWS], ids=[f"I {row[0]} {row[1]}" for row in ROWS])  # fmt: skip
def test_refused(name: str, make: Callable[[Path], None], word: str, case: Any, refused: Any) -> None:
    path = case.path(name)
    path.unlink(missing_ok=True)
    if name in WEIGHTS:
        case.path().unlink(missing_ok=True)
    try:
        make(path)
    except PermissionError:
        pytest.skip("needs the right to make devices")
    refused(name, word, tokenizer=name not in (*WEIGHTS, "config.json"))


def _sparse_weights(case: Any) -> None:
    with case.path().open("r+b") as file:
        file.truncate(3 * 2**30)


def _sparse_header(case: Any) -> None:
    with case.path().open("wb") as file:
        file.write(struct.pack("<Q", 3 * 2**30 - 8) + b"{")
        file.truncate(3 * 2**30)


def _sparse_zip(case: Any) -> None:
    case.write_bin()
    with case.path("pytorch_model.bin").open("r+b") as file:
        file.truncate(3 * 2**30)


def _sparse_tensor(case: Any) -> None:
    """A sound header for 3 GiB of zeros: a table with far more rows than config.json says."""
    entries, data = case.header()
    last = max((k for k in entries if k != "__metadata__"), key=lambda k: entries[k]["data_offsets"][1])
    begin = entries[last]["data_offsets"][0]
    entries[last].update(shape=[3 * 2**26, 4], data_offsets=[begin, begin + 3 * 2**30])
    case.write_header(entries, data)
    header = 8 + struct.unpack("<Q", case.path().read_bytes()[:8])[0]
    with case.path().open("r+b") as file:
        file.truncate(header + begin + 3 * 2**30)


def _emptied(case: Any) -> None:
    for path in list(case.folder.iterdir()):
        path.unlink()


def _only(*names: str) -> Callable[[Any], None]:
    def damage(case: Any) -> None:
        for path in list(case.folder.iterdir()):
            if path.name not in names:
                path.unlink()

    return damage


def _odd_weights(name: str) -> Callable[[Any], None]:
    return lambda case: case.path().rename(case.path(name)) and None


def _link_out(case: Any) -> None:
    """Weights that are a link to a file that is none: followed, as in the hub's cache, and refused for what it holds."""
    secret = case.folder.parent / "secret"
    secret.write_text("root:x:0:0:root\n")
    case.path().unlink()
    case.path().symlink_to(secret)


FOLDERS: list[tuple[str, Callable[[Any], None], tuple[str, ...]]] = [
    ("I 3 GiB of sparse weights", _sparse_weights, ("model.safetensors", "bytes of tensors")),
    ("I 3 GiB of sparse header", _sparse_header, ("model.safetensors", "header of at most")),
    ("I 3 GiB of sparse zip", _sparse_zip, ("pytorch_model.bin", "zip")),
    ("I 3 GiB of sparse tensor", _sparse_tensor, ("model.safetensors", "expected shape", "[201326592, 4]")),
    ("I an empty folder", _emptied, ("config.json", "found nothing")),
    ("I no weights", _only("config.json"), ("expected model.safetensors", "found config.json")),
    ("I weights of TensorFlow", _odd_weights("tf_model.h5"), ("expected model.safetensors", "tf_model.h5")),
    ("I weights of Flax", _odd_weights("flax_model.msgpack"), ("expected model.safetensors", "flax_model.msgpack")),
    ("I weights of another case", _odd_weights("Model.safetensors"), ("expected model.safetensors", "Model.safetensors")),
    ("I a name with escape codes", _odd_weights("\x1b[2J.safetensors"), (r"\x1b[2J",)),
    ("I a link to a file elsewhere", _link_out, ("model.safetensors",)),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), [row[1:] for row in FOLDERS], ids=[row[0] for row in FOLDERS])
def test_folders_refused(damage: Callable[[Any], None], words: tuple[str, ...], case: Any, refused: Any) -> None:
    damage(case)
    found = refused(*words, allowed=[case.folder.parent / "secret"])
    assert "root:x" not in str(found.errors)


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users can reach."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.txt"], ids="I unreadable {}".format)
def test_permission_denied(name: str, public: Path, whole: Path, warm: None) -> None:
    for path in whole.iterdir():
        (public / path.name).write_bytes(path.read_bytes())
    (public / name).chmod(0)
    opened = AutoTokenizer if name == "vocab.txt" else AutoModel
    message = _said_to_nobody(lambda: opened.from_pretrained(public))
    assert f"{name}: permission denied" in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("nowhere/at/all", "no such folder", id="I path that is not there"),
        pytest.param("file", "found a file", id="I path of a file"),
        pytest.param("pipe", "found a file", id="I path of a pipe"),
        pytest.param("/dev/zero", "found a file", id="I path of a device"),
        pytest.param("loop", "no such folder", id="I path of a looped link"),
        pytest.param("", "", id="I path that is empty"),
        pytest.param("x" * 5000, "", id="I path of 5,000 letters"),
        pytest.param("a\0b", "", id="I path with NUL"),
    ],
)
def test_paths_that_are_no_folder(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    with pytest.raises(ValueError) as caught:
        AutoModel.from_pretrained(name)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_a_folder_that_may_not_be_listed(public: Path, whole: Path, warm: None) -> None:
    (public / "inner").mkdir()
    (public / "inner" / "config.json").write_bytes((whole / "config.json").read_bytes())
    (public / "inner").chmod(0o711)
    message = _said_to_nobody(lambda: AutoModel.from_pretrained(public / "inner"))
    assert "inner: expected model.safetensors" in message
    (public / "inner").chmod(0o600)
    assert "ermission denied" in _said_to_nobody(lambda: AutoModel.from_pretrained(public / "inner"))


def _said_to_nobody(call: Callable[[], Any]) -> str:
    """The CheckpointError that another user gets."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            call()
        except CheckpointError as error:
            os.write(write, str(error).encode())
        except BaseException as error:
            os.write(write, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        message = pipe.read()
    os.waitpid(child, 0)
    return message


# -- H: what a guarded process must see of the tokenizer -----------------------------------------------------------------


def _config(**keys: Any) -> Callable[[Any], None]:
    def damage(case: Any) -> None:
        case.path("evil.py").write_text("import os\nos.mkdir(os.environ['MINITRANS_CANARY'])\n")
        case.path("tokenizer_config.json").write_text(json.dumps(keys))

    return damage


H_WELCOME: list[tuple[str, Callable[[Any], None]]] = [
    ("H auto_map", _config(auto_map={"AutoTokenizer": ["evil.Evil", None]}, trust_remote_code=True)),
    ("H outside path", _config(vocab_file="/etc/passwd", name_or_path="/etc")),
    ("H outside path upwards", _config(vocab_file="../../secret.txt", merges_file="../x")),
    ("H CRLF", lambda case: case.path("vocab.txt").write_bytes(case.path("vocab.txt").read_bytes().replace(b"\n", b"\r\n"))),
    ("H byte order mark", lambda case: case.path("vocab.txt").write_bytes(b"\xef\xbb\xbf" + case.path("vocab.txt").read_bytes())),
]  # fmt: skip


@pytest.mark.parametrize("damage", [row[1] for row in H_WELCOME], ids=[row[0] for row in H_WELCOME])
def test_tokenizer_welcome(damage: Callable[[Any], None], case: Any, harmless: Any) -> None:
    damage(case)
    harmless(tokenizer=True)


H_ROWS: list[tuple[str, Callable[[Any], Any], tuple[str, ...]]] = [
    ("H a line of 10 MB", lambda case: case.path("vocab.txt").write_text("x" * 10**7), ("vocab.txt",)),
    ("H git-lfs pointer", lambda case: case.path("vocab.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"), ("vocab.txt", "git lfs pull")),
    ("H HTML page", lambda case: case.path("tokenizer.json").write_text("<!DOCTYPE html>"), ("tokenizer.json", "HTML")),
    ("H nested 10^5", lambda case: case.path("tokenizer.json").write_text('{"a":' * 10**5), ("tokenizer.json",)),
    ("H regex bomb", lambda case: case.path("tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}}, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}})), ("tokenizer.json", "linear")),
    ("H a tokenizer class that is code", _config(tokenizer_class="evil.Evil"), ("tokenizer_class", "evil.Evil")),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), [row[1:] for row in H_ROWS], ids=[row[0] for row in H_ROWS])
def test_tokenizer_refused(damage: Callable[[Any], Any], words: tuple[str, ...], case: Any, refused: Any) -> None:
    damage(case)
    refused(*words, tokenizer=True)
