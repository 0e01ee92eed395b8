"""Replacing several files of a folder as one: a kill at any moment leaves the old set or the new one, never a mix.

New files are written under staged names and synced; then a journal that lists the renames is renamed into place. From
that moment the new set is the one that counts: `Folder` reads through an unfinished journal, and the next save finishes
it. Renames only, all inside the folder, so no other file system is ever involved.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from minitrans.errors import CheckpointError
from minitrans.files import printable, read_json

JOURNAL = ".minitrans-save.json"
STAGED = ".minitrans-staged-"


class Folder:
    """The files of a checkpoint folder by name, as the last completed or journalled save left them."""

    def __init__(self, root: Path) -> None:
        """Reads the journal of an interrupted save, if there is one. Raises CheckpointError if it is not ours."""
        self.root = root
        self._moves: dict[str, str] = {}
        self._removed: frozenset[str] = frozenset()
        if os.path.lexists(root / JOURNAL):
            self._moves, self._removed = _read_journal(root / JOURNAL)

    def path(self, name: str) -> Path:
        """Where the file called `name` lies at the moment."""
        staged = self.root / self._moves[name] if name in self._moves else None
        return staged if staged is not None and staged.exists() else self.root / name

    def has(self, name: str) -> bool:
        """Whether the folder holds an entry of this name, be it a dangling link (which is an error later, not an absence)."""
        return name not in self._removed and os.path.lexists(self.path(name))


class Save:
    """One save in progress: `stage` gives the path to write a file to, `remove` marks a file that must go."""

    def __init__(self, root: Path) -> None:
        """Nothing is written yet."""
        self.root = root
        self.staged: dict[str, str] = {}
        self.removed: list[str] = []

    def stage(self, name: str) -> Path:
        """A path that does not exist yet, to be renamed to `name` when the save is committed."""
        target = self.root / name
        if target.exists() and not target.is_file():
            raise ValueError(f"{printable(target)}: cannot be written: it exists and is not a regular file")
        self.staged[name] = f"{STAGED}{uuid.uuid4().hex}"
        return self.root / self.staged[name]

    def remove(self, names: Sequence[str]) -> None:
        """Marks files that the saved set does not hold."""
        self.removed += names


@contextmanager
def saving(root: Path) -> Iterator[Save]:
    """A save into `root`, committed at the end of the block and undone if the block raises. One at a time per folder."""
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root):
        _finish_interrupted(root)
        save = Save(root)
        try:
            yield save
            journal = root / f"{STAGED}{uuid.uuid4().hex}"
            journal.write_text(json.dumps({"moves": save.staged, "remove": save.removed}), encoding="utf-8")
            usual_mode = journal.stat().st_mode & 0o777
            for name, staged in save.staged.items():
                kept = (root / name).is_file()
                (root / staged).chmod((root / name).stat().st_mode & 0o777 if kept else usual_mode)
                _sync(root / staged)
            _sync(journal)
            _sync(root)
            os.replace(journal, root / JOURNAL)
        except BaseException:
            _clear_staged(root)
            raise
        _sync(root)
        _carry_out(root, save.staged, save.removed)


def _carry_out(root: Path, moves: Mapping[str, str], removed: Sequence[str]) -> None:
    """The renames and removals of a journal; each may have happened already."""
    for name, staged in moves.items():
        if (root / staged).exists():
            os.replace(root / staged, root / name)
    for name in removed:
        (root / name).unlink(missing_ok=True)
    _sync(root)
    (root / JOURNAL).unlink(missing_ok=True)
    _sync(root)


def _finish_interrupted(root: Path) -> None:
    """Completes a journalled save that was killed, and clears what a killed one staged without getting so far."""
    if os.path.lexists(root / JOURNAL):
        moves, removed = _read_journal(root / JOURNAL)
        _carry_out(root, moves, sorted(removed))
    _clear_staged(root)


def _clear_staged(root: Path) -> None:
    for stale in root.glob(f"{STAGED}*"):
        stale.unlink(missing_ok=True)


def _read_journal(path: Path) -> tuple[dict[str, str], frozenset[str]]:
    journal = read_json(path)
    moves, removed = journal.get("moves"), journal.get("remove")
    sound = (
        isinstance(moves, dict)
        and isinstance(removed, list)
        and all(isinstance(staged, str) and staged.startswith(STAGED) for staged in moves.values())
        and all(
            isinstance(name, str) and "/" not in name and "\0" not in name
            for name in (*moves.values(), *moves, *removed)
        )
        and not {"", ".", ".."} & {*moves, *removed}
    )
    if not isinstance(moves, dict) or not isinstance(removed, list) or not sound:
        raise CheckpointError(f"{printable(path)}: expected the journal of an interrupted save, found something else")
    return moves, frozenset(removed)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Holds the folder's lock, so that of two processes that save to it one comes after the other."""
    import fcntl

    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            # Some network file systems have no locks; there a folder must have one writer.
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
