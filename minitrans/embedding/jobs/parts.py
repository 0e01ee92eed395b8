"""The folder beside an output in which its windows gather until all are there.

A window is a file that appears whole, under its number. A manifest says what every one of them was made from, so that a run
that was killed, or another process of the same run, can add the rest, and nobody adds anything else.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from minitrans.errors import CheckpointError
from minitrans.files import atomic_write, printable, read_json, write_json

MANIFEST = "manifest.json"
DTYPES = ("float32", "float64")
_OURS = re.compile(r"\.*(\d{8}\.npy|manifest\.json|joined)(\..*\.incomplete)?")


class Parts:
    """`vectors.npy.parts` for `vectors.npy`.

    Attributes:
        target: the file to be.
        folder: where its parts are.
        name: the folder's, fit to be printed.
    """

    def __init__(self, target: Path) -> None:
        """Touches nothing."""
        self.target = target.resolve()
        self.folder = self.target.with_name(f"{self.target.name}.parts")
        self.name = printable(self.folder)

    def begun(self) -> bool:
        """Whether there is a manifest."""
        return (self.folder / MANIFEST).exists()

    @contextmanager
    def locked(self, *, shared: bool) -> Iterator[None]:
        """Makes the folder, and holds it against runs that know nothing of this one. Raises ValueError if one has it."""
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.name}: expected a folder, or nothing, found a file")
        self.folder.mkdir(exist_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{self.name}: another run is writing to it") from None
            except OSError:  # a network file system without locks: there a run must be alone
                pass
            yield
        finally:
            os.close(descriptor)

    def agree(self, manifest: Mapping[str, Any]) -> None:
        """Writes the manifest, or compares it with the one there is. Raises ValueError naming the first key that differs."""
        path = self.folder / MANIFEST
        if not path.exists():
            draft = self.folder / f".{MANIFEST}.{os.uname().nodename}-{os.getpid()}.incomplete"
            write_json(draft, dict(manifest))
            try:
                os.link(draft, path)  # unlike a rename, only the first of several processes succeeds
            except FileExistsError:
                pass
            except OSError:  # no links on this file system
                os.replace(draft, path)
            draft.unlink(missing_ok=True)
        stored, found = _flat(self.manifest()), _flat(manifest)
        for key in sorted({*stored, *found}):
            if stored.get(key) != found.get(key):
                raise ValueError(
                    f"{self.name}: {key}: expected {printable(stored.get(key), 80)} as in the run that began it, "
                    f"found {printable(found.get(key), 80)}; --force begins anew"
                )

    def manifest(self) -> dict[str, Any]:
        """What the parts are made from. Raises CheckpointError if that cannot be read."""
        return read_json(self.folder / MANIFEST)

    def shape(self) -> tuple[int, np.dtype[Any]]:
        """D and the dtype of the vectors. Raises CheckpointError if the manifest does not say."""
        stored = self.manifest().get("vectors")
        given = stored if isinstance(stored, dict) else {}
        if not isinstance(given.get("dimension"), int) or given.get("dtype") not in DTYPES:
            path = printable(self.folder / MANIFEST)
            raise CheckpointError(f"{path}: vectors: expected a dimension and a dtype, found {printable(stored, 80)}")
        return given["dimension"], np.dtype(given["dtype"])

    def empty(self) -> bool:
        """Whether no window is there."""
        return not any(self.folder.glob("[0-9]*.npy"))

    def write(self, number: int, block: np.ndarray) -> None:
        """Adds the vectors of a window: all of them, or, if anything fails, none."""
        with atomic_write(self._path(number)) as temporary, temporary.open("wb") as stream:
            np.save(stream, block)

    def read(self, number: int, lines: int, dimension: int, dtype: np.dtype[Any]) -> np.ndarray | None:
        """(lines, D), mapped from the file; None where the window is not there, or is a file of something else."""
        try:
            block = np.lib.format.open_memmap(self._path(number), mode="r")
            whole = block.offset + block.nbytes == self._path(number).stat().st_size
        except (OSError, ValueError):
            return None
        right = (block.shape, block.dtype) == ((lines, dimension), dtype) and block.flags.c_contiguous
        return block if whole and right else None

    @contextmanager
    def publishing(self) -> Iterator[Path]:
        """A path to write the output to; at the end of the block it takes its name and its place in one step."""
        joined = self.folder / "joined"
        with atomic_write(joined) as temporary:
            yield temporary
        if self.target.exists():
            joined.chmod(self.target.stat().st_mode & 0o777)
        os.replace(joined, self.target)
        for place in (self.folder, self.target.parent):
            descriptor = os.open(place, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    def sweep(self) -> None:
        """Removes what runs leave in the folder, the manifest last."""
        ours = sorted(path for path in self.folder.iterdir() if _OURS.fullmatch(path.name))
        for path in sorted(ours, key=lambda path: path.name == MANIFEST):
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """The same, and the folder if nothing else is in it."""
        self.sweep()
        with suppress(OSError):
            self.folder.rmdir()

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.npy"


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    found: dict[str, Any] = {}
    for key, each in value.items():
        found |= _flat(each, f"{prefix}{key}.") if isinstance(each, Mapping) else {f"{prefix}{key}": each}
    return found
