"""Reading small untrusted text files and writing files that are whole or absent."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minitrans.errors import CheckpointError

# What people find in place of a checkpoint's file, by its first bytes (blanks aside, in small letters).
IMPOSTORS = (
    (b"version https://git-lfs", "a git-lfs pointer: run `git lfs pull`"),
    (b"<!doctype", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML page"),
)
MAX_TEXT_BYTES = 64 * 1024 * 1024  # the largest public tokenizer.json is 33 MB


def printable(text: object, limit: int = 120) -> str:
    """`text` with control characters escaped and cut to `limit`, so that names from a file cannot drive a terminal."""
    text = str(text)
    if len(text) <= limit and text.isprintable():
        return text
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def require_regular_file(path: Path, max_bytes: int | None = None) -> os.stat_result:
    """The stat of `path`. Raises CheckpointError if it is missing, not a regular file, unreadable or larger than `max_bytes`."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        found = "a dangling link" if path.is_symlink() else "nothing"
        raise CheckpointError(f"{printable(path)}: expected a file, found {found}") from None
    except OSError as error:
        raise CheckpointError(f"{printable(path)}: cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{printable(path)}: expected a regular file, found a directory, device or pipe")
    if max_bytes is not None and status.st_size > max_bytes:
        raise CheckpointError(f"{printable(path)}: expected at most {max_bytes} bytes, found {status.st_size}")
    if not os.access(path, os.R_OK):
        raise CheckpointError(f"{printable(path)}: permission denied")
    return status


def is_inside(path: str) -> bool:
    """Whether a relative path stays below where it starts: plain segments only, or nothing at all."""
    segments = path.removesuffix("/").split("/")
    plain = all(segment not in ("", ".", "..") and not set("\0\\:") & set(segment) for segment in segments)
    return path == "" or plain


def refuse_impostor(path: Path, start: bytes) -> None:
    """Raises CheckpointError if a file that begins with `start` is known to be no part of a checkpoint."""
    for magic, what in IMPOSTORS:
        if start.lstrip().lower().startswith(magic):
            raise CheckpointError(f"{printable(path)}: expected a file of a checkpoint, found {what}")


def read_text(path: str | Path) -> str:
    """The UTF-8 text of a file, without a byte order mark. Raises CheckpointError, naming the file, if it is anything else."""
    path = Path(path)
    require_regular_file(path, MAX_TEXT_BYTES)
    content = path.read_bytes()
    refuse_impostor(path, content[:64])
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{printable(path)}: expected UTF-8 text, found byte {error.start} that is not") from None


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for key, value in pairs:
        if key in keys:
            raise ValueError(f"the key {printable(key)!r} stands twice")
        keys[key] = value
    return keys


def read_json_value(path: str | Path) -> Any:
    """What stands in a JSON file. Raises CheckpointError if an object in it holds a key twice, or it cannot be parsed."""
    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{printable(path)}: expected JSON, found an error: {printable(error, 200)}") from None


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError as `read_json_value` does, and for anything but one object."""
    value = read_json_value(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{printable(path)}: expected a JSON object, found {type(value).__name__}")
    return value


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is synced and renamed over `path`, on an error it is removed.

    A crash leaves the old file or the new one, whole: the file is synced before the rename and the directory after it
    (Pillai et al. 2014, "All File Systems Are Not Created Equal").
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: cannot be written: it exists and is not a regular file")
    target = path.resolve()
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".incomplete", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
        yield temporary
        temporary.chmod(mode)
        _sync(temporary)
        os.replace(temporary, target)
        _sync(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: dict[str, Any]) -> None:
    """Writes `value` as indented JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def require_writable(path: Path, *, force: bool, source: str | None = None) -> None:
    """Refuses, before any work is done, an output that cannot or must not be written. Raises ValueError saying why."""
    name = printable(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{name}: expected a file to write, found a folder, device or pipe")
    if source not in (None, "-") and path.exists() and Path(str(source)).exists() and path.samefile(str(source)):
        raise ValueError(f"{name}: the output would replace the input; choose another name")
    if path.exists() and not force:
        raise ValueError(f"{name}: exists already; --force replaces it")
    if not path.parent.is_dir():
        raise ValueError(f"{name}: expected the folder {printable(path.parent)} to exist")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{printable(path.parent)}: permission denied")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
