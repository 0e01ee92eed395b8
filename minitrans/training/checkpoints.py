"""Folders of checkpoints, each whole or not there, of which the last few stay.

A checkpoint is a folder `step-00000120` with tensors in safetensors files, written by `torch.distributed.checkpoint` (every rank
its own shards, so that any number of ranks can read them), and `training.json` with the rest and a hash of every file. There
is no pickle in it: the engine's own `.metadata` would be one, and is neither written nor read; places of shards stand in the
headers of the files. All is written into a hidden folder and synced before that gets its name, in one rename by one rank
(Pillai et al. 2014, "All File Systems Are Not Created Equal"). Older ones go after that, the hidden way back.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as read_shards
from torch.distributed.checkpoint.state_dict_saver import save as write_shards

from minitrans.errors import CheckpointError
from minitrans.files import is_inside, printable, read_json, require_regular_file
from minitrans.training.distributed import Ranks
from weights_convert.header import read_header

FACTS = "training.json"
NAME = re.compile(r"step-(\d{8,})")
logger = logging.getLogger(__name__)


class Checkpoints:
    """Those of one training.

    Args:
        folder: where they are; it is made if need be.
        keep: how many of the last stay.
        ranks: who writes.
    """

    def __init__(self, folder: Path, keep: int, ranks: Ranks) -> None:
        self.folder, self.keep, self.ranks = folder, keep, ranks
        if ranks.leads:
            folder.mkdir(parents=True, exist_ok=True)
        ranks.wait()

    def path(self, step: int) -> Path:
        """Of the checkpoint after so many steps."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Of which there are folders, whole or not, in their order."""
        return sorted(int(found[1]) for path in self.folder.iterdir() if (found := NAME.fullmatch(path.name)))

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], best: int | None) -> Path:
        """Writes a checkpoint, then removes those that are neither among the last few nor the best.

        Raises:
            OSError: where the disk refuses, on all ranks; older checkpoints are as they were.
        """
        target, hidden = self.path(step), self.folder / f".step-{step:08d}.incomplete"
        if self.ranks.leads:
            self._remove_leftovers()
            hidden.mkdir()
        self.ranks.wait()
        try:
            self._write(hidden, tensors)
            hashes = self._hashes(hidden)
            failure = (
                self._finish(hidden, target, {**facts, "step": step, "files": hashes}) if self.ranks.leads else None
            )
            failure = self.ranks.from_lead(failure)
            if failure is not None:
                raise OSError(f"{printable(target)}: cannot be saved: {failure}")
        except BaseException:
            if self.ranks.leads:
                shutil.rmtree(hidden, ignore_errors=True)
            raise
        if self.ranks.leads:
            for old in self.steps()[: -self.keep]:
                if old != best:
                    self._remove(self.path(old))
        return target

    def newest(self) -> tuple[int, dict[str, Any]]:
        """The newest whole checkpoint and its facts; newer ones that are not whole are skipped, and named in a warning.

        Raises:
            CheckpointError: where there is none.
        """
        faults = [f"{path.name}: the save was cut off" for path in self.folder.glob(".step-*.incomplete")]
        for step in reversed(self.steps()):
            try:
                facts = self.read(step)
            except CheckpointError as error:
                faults.append(str(error))
                continue
            for fault in faults if self.ranks.leads else ():
                logger.warning("skipped a checkpoint that is not whole: %s; going on from step %s", fault, step)
            return step, facts
        because = "; ".join(faults) or "there is none"
        raise CheckpointError(f"{printable(self.folder)}: expected a whole checkpoint to go on from: {because}")

    def read(self, step: int) -> dict[str, Any]:
        """The facts of a checkpoint. Raises CheckpointError, naming the file, where it is not whole."""
        folder = self.path(step)
        facts = read_json(folder / FACTS)
        files = facts.get("files")
        if not isinstance(files, dict) or not files or facts.get("step") != step:
            raise CheckpointError(f"{printable(folder / FACTS)}: expected the files of step {step}, found none")
        for name, expected in files.items():
            path = folder / name
            require_regular_file(path)
            if not is_inside(name) or _hash(path) != expected:
                raise CheckpointError(f"{printable(path)}: is not the file that was saved: its hash differs")
            read_header(path)
        return facts

    def load(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Fills tensors, or shards of them, with what a checkpoint holds under their names.

        Raises:
            CheckpointError: where one is missing there or here, or has another shape or type.
        """
        saved = self.saved(step)
        for name in sorted({*tensors, *saved}):
            mine = _kind(tensors[name].shape, tensors[name].dtype) if name in tensors else "nothing"
            there = _kind(saved[name].size, saved[name].properties.dtype) if name in saved else "nothing"
            if mine != there:
                where = printable(self.path(step))
                raise CheckpointError(f"{where}: {printable(name)}: expected {mine}, found {there}")
        reader = HuggingFaceStorageReader(str(self.path(step)))
        with _quietly():
            read_shards(dict(tensors), storage_reader=reader, no_dist=self.ranks.size == 1)

    def load_weights(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """The same, but not for what only an optimiser needs. Raises CheckpointError where the folder is not whole."""
        self.read(step)
        reader = HuggingFaceStorageReader(str(self.path(step)))
        weights = {
            name: each for name, each in tensors.items() if name.startswith(("weights.", "buffers.", "average."))
        }
        with _quietly():
            read_shards(weights, storage_reader=reader, no_dist=self.ranks.size == 1)

    def saved(self, step: int) -> dict[str, Any]:
        """What a checkpoint holds, by name."""
        found: dict[str, Any] = HuggingFaceStorageReader(str(self.path(step))).read_metadata().state_dict_metadata
        return found

    def _write(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        try:
            with _quietly():
                write_shards(dict(tensors), storage_writer=writer, no_dist=self.ranks.size == 1)
        except CheckpointException as error:
            first = next(iter(error.failures.values()))[0]
            raise first if isinstance(first, OSError) else OSError(str(first)) from None

    def _hashes(self, folder: Path) -> dict[str, str]:
        """Of all files; each rank reads its share."""
        names = sorted(path.name for path in folder.iterdir())
        mine = {name: _hash(folder / name) for name in names[self.ranks.rank :: self.ranks.size]}
        return self.ranks.merged(mine)

    def _finish(self, hidden: Path, target: Path, facts: Mapping[str, Any]) -> str | None:
        """Gives a folder its name, once all in it is on the disk; what went wrong, if something did."""
        try:
            (hidden / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            for path in (*hidden.iterdir(), hidden):
                _sync(path)
            if target.exists():  # it was not whole, or a run that has begun again came here before
                self._remove(target)
            os.rename(hidden, target)
            _sync(self.folder)
        except OSError as error:
            return str(error)
        return None

    def _remove(self, path: Path) -> None:
        """Takes the name away first, so that no half of it is ever taken for a checkpoint."""
        going = path.with_name(f".{path.name}.removed")
        os.rename(path, going)
        shutil.rmtree(going)

    def _remove_leftovers(self) -> None:
        """Of saves and removals that were killed."""
        for path in self._leftovers():
            shutil.rmtree(path)

    def _leftovers(self) -> Iterator[Path]:
        yield from self.folder.glob(".step-*.incomplete")
        yield from self.folder.glob(".step-*.removed")


@contextmanager
def _quietly() -> Iterator[None]:
    """One process needs no advice to be several."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def _kind(shape: Any, dtype: Any) -> str:
    return f"{dtype} {list(shape)}"


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
