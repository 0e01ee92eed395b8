"""Replacing several files of a folder as one: a kill at any moment leaves the old set or the new one, never a mix.

New files are written under staged names and synced; then a journal that lists the renames is renamed into place. From
that moment the new set is the one that counts: `Folder` reads through an unfinished journal, and the next save finishes
it. Renames only, all inside the folder, so no other file system is ever involved.

Whoever knows no journal, other libraries and our tokenizers, sees the renames one by one. What must not be seen half
done is hidden first: a journal that leads to second names of the old files is put in place, and only then do they lose
their own. Until the new ones come such a reader finds them missing, which is an error and no mix.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from minitrans.errors import CheckpointError
from minitrans.files import is_inside, printable, read_json

JOURNAL = ".minitrans-save.json"
STAGED = ".minitrans-staged-"


class Folder:
    """The files of a checkpoint folder by name, as the last completed or journalled save left them."""

    def __init__(self, root: Path) -> None:
        """Reads the journal of an interrupted save, if there is one. Raises CheckpointError if it is not ours."""
        self.root = root
        self._staged: dict[str, Path] = {}
        self._removed: frozenset[str] = frozenset()
        if os.path.lexists(root / JOURNAL):
            moves, removed = _read_journal(root / JOURNAL)
            self._staged = {name: root / staged for name, staged in moves.items()}
            self._removed = frozenset(removed)

    def path(self, name: str) -> Path:
        """Where the file called `name` lies at the moment."""
        staged = self._staged.get(name)
        return staged if staged is not None and staged.exists() else self.root / name

    def has(self, name: str) -> bool:
        """Whether the folder holds an entry of this name, be it a dangling link (which is an error later, not an absence)."""
        return name not in self._removed and os.path.lexists(self.path(name))

    def below(self, name: str) -> Folder:
        """The folder called `name` in this one, as the same save left it; "" = this one."""
        if not name:
            return self
        inner, start = Folder(self.root / name), f"{name}/"
        inner._staged |= {key.removeprefix(start): at for key, at in self._staged.items() if key.startswith(start)}
        return inner


class Save:
    """One save in progress: `stage` gives the path to write a file to, `remove` and `hide` mark files that must go.

    The renames come in the order in which the files were staged.
    """

    def __init__(self, root: Path) -> None:
        """Nothing is written yet."""
        self.root = root
        self.staged: dict[str, str] = {}
        self.hidden: list[str] = []
        self.removed: list[str] = []

    def stage(self, name: str) -> Path:
        """A path that does not exist yet, to be renamed to `name`, in the folder or below, when the save is committed."""
        target = self.root / name
        if target.exists() and not target.is_file():
            raise ValueError(f"{printable(target)}: cannot be written: it exists and is not a regular file")
        self.staged[name] = f"{STAGED}{uuid.uuid4().hex}"
        return self.root / self.staged[name]

    def holds(self, name: str, content: bytes | None) -> bool:
        """Whether the folder's file called `name` is a file of its own with this content; None: whether there is none."""
        path = self.root / name
        if content is None:
            return not os.path.lexists(path)
        return not path.is_symlink() and path.is_file() and path.read_bytes() == content

    def remove(self, names: Sequence[str]) -> None:
        """Marks files that the saved set does not hold."""
        self.removed += names

    def hide(self, names: Sequence[str]) -> None:
        """Marks files that must be gone before anything else changes; the last one marked goes first."""
        self.hidden[:0] = reversed(names)


@contextmanager
def saving(root: Path) -> Iterator[Save]:
    """A save into `root`, committed at the end of the block and undone if the block raises. One at a time per folder."""
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root):
        _finish_interrupted(root)
        save = Save(root)
        try:
            yield save
            journal = _written(root, save.staged, save.removed)
            usual_mode = journal.stat().st_mode & 0o777
            for name, staged in save.staged.items():
                kept = (root / name).is_file()
                (root / staged).chmod((root / name).stat().st_mode & 0o777 if kept else usual_mode)
                _sync(root / staged)
            _hide(root, [name for name in save.hidden if (root / name).is_file()])
            _commit(journal)
        except BaseException:
            with suppress(OSError):  # what is raised already tells more
                _finish_interrupted(root)
            raise
        _sync(root)
        _carry_out(root, save.staged, save.removed)
        _clear_staged(root)


def _written(root: Path, moves: Mapping[str, str], removed: Sequence[str]) -> Path:
    """A journal that does not count yet."""
    journal = root / f"{STAGED}{uuid.uuid4().hex}"
    journal.write_text(json.dumps({"moves": moves, "remove": removed}), encoding="utf-8")
    return journal


def _commit(journal: Path) -> None:
    """From here on the journal counts, once the folder is synced."""
    _sync(journal)
    _sync(journal.parent)
    os.replace(journal, journal.with_name(JOURNAL))


def _hide(root: Path, names: Sequence[str]) -> None:
    """Takes files their names; a journal leads to them, and undoes it should there come no other."""
    if not names:
        return
    kept = {name: f"{STAGED}{uuid.uuid4().hex}" for name in names}
    for name, other in kept.items():
        _keep(root / name, root / other)
        _sync(root / other)
    _commit(_written(root, kept, []))
    _sync(root)
    for name in names:
        (root / name).unlink()
    for folder in {(root / name).parent for name in names}:
        _sync(folder)


def _keep(path: Path, other: Path) -> None:
    """A second name for a file, or a copy where there can be none."""
    if not path.is_symlink():
        with suppress(OSError):
            os.link(path, other)
            return
    shutil.copy(path, other)


def _carry_out(root: Path, moves: Mapping[str, str], removed: Sequence[str]) -> None:
    """The renames and removals of a journal; each may have happened already."""
    for name, staged in moves.items():
        if (root / staged).exists():
            require_own_folder(root, name)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(root / staged, root / name)
    for name in removed:
        (root / name).unlink(missing_ok=True)
    for folder in {(root / name).parent for name in moves} - {root}:
        _sync(folder)
    _sync(root)
    (root / JOURNAL).unlink(missing_ok=True)
    _sync(root)


def require_own_folder(root: Path, name: str) -> None:
    """Raises ValueError where a file called `name` would not lie in `root` or a folder of it: links lead elsewhere."""
    for place in list((root / name).parents)[: name.count("/")]:
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise ValueError(f"{printable(place)}: expected a folder in the destination, found a link or a file")


def _finish_interrupted(root: Path) -> None:
    """Completes a journalled save that was killed, and clears what a killed one staged without getting so far."""
    if os.path.lexists(root / JOURNAL):
        _carry_out(root, *_read_journal(root / JOURNAL))
    _clear_staged(root)


def _clear_staged(root: Path) -> None:
    for stale in root.glob(f"{STAGED}*"):
        stale.unlink(missing_ok=True)


def _read_journal(path: Path) -> tuple[dict[str, str], list[str]]:
    """What a journal moves and what it removes."""
    journal = read_json(path)
    moves, removed = journal.get("moves"), journal.get("remove")
    if (
        not isinstance(moves, dict)
        or not isinstance(removed, list)
        or not all(isinstance(name, str) and _is_file_name(name) for name in (*moves, *removed))
        or not all(isinstance(at, str) and at.startswith(STAGED) and _is_file_name(at) for at in moves.values())
        or any("/" in name for name in (*moves.values(), *removed))
    ):
        raise CheckpointError(f"{printable(path)}: expected the journal of an interrupted save, found something else")
    return moves, removed


def _is_file_name(name: str) -> bool:
    return name != "" and not name.endswith("/") and is_inside(name)


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
