"""The weights of a checkpoint folder as one set of named tensors, whatever files they lie in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Unpack

import torch

from minitrans.errors import CheckpointError
from minitrans.files import printable, read_json
from minitrans.hub import HubOptions, local_folder
from weights_convert.header import read_header
from weights_convert.journal import Folder
from weights_convert.pickles import load_pickled
from weights_convert.plan import TensorInfo

CONFIG = "config.json"
ADAPTER = "adapter_config.json"  # what a folder of peft has
BESIDE = (CONFIG, ADAPTER, "generation_config.json")
PIECE_BYTES = 512 * 1024  # a fraction of a core's cache, and many enough that a call costs nothing beside it
REOPEN_AFTER = 64 * 1024 * 1024  # pages read through a mapping count as ours until it is closed


@dataclass(frozen=True)
class WeightFiles:
    """The names that files with weights have.

    Attributes:
        stem: how they begin.
        suffix: how they end.
        variant: which of several sets in one folder, such as "fp16"; None = the one without a name.
    """

    stem: str
    suffix: str
    variant: str | None = None

    @property
    def _named(self) -> str:
        return f".{self.variant}" if self.variant else ""

    @property
    def single(self) -> str:
        """The one file that holds all of them."""
        return f"{self.stem}{self._named}{self.suffix}"

    @property
    def index(self) -> str:
        """The file that says which of several holds which."""
        return f"{self.stem}{self.suffix}.index{self._named}.json"

    def shard(self, number: int, count: int, mark: str) -> str:
        """One of `count` files; `mark` tells those of one save from those of another."""
        return f"{self.stem}{self._named}-{number:05d}-of-{count:05d}-{mark}{self.suffix}"

    @property
    def patterns(self) -> tuple[str, ...]:
        """What to ask the hub for."""
        shards = f"{self.stem}{self._named}-*{self.suffix}"
        older = (f"{self.stem}-*{self._named}{self.suffix}",) if self.variant else ()
        return (self.single, self.index, shards, *older)


def weight_files(variant: str | None = None, use_safetensors: bool | None = None) -> tuple[WeightFiles, ...]:
    """The files to look for, in this order: pickles are the last resort. Raises ValueError for a variant that is no name."""
    if variant is not None and not (variant and variant.replace("-", "").replace("_", "").isalnum()):
        raise ValueError(f"variant: expected a name such as 'fp16', got {printable(variant)!r}")
    kinds = ((True, "model", ".safetensors"), (False, "pytorch_model", ".bin"))
    return tuple(
        WeightFiles(stem, suffix, variant)
        for safe, stem, suffix in kinds
        if use_safetensors is None or bool(use_safetensors) is safe
    )


SAFE, BIN = weight_files()


class Checkpoint:
    """`tensors`: key -> what is stored; `read` and `read_pieces` give the values.

    safetensors are read, not mapped: a file that is cut meanwhile gives an error, where a mapping would give a signal.
    """

    def __init__(self, folder: Folder, kinds: tuple[WeightFiles, ...] = (SAFE, BIN)) -> None:
        """Reads and checks names, dtypes and shapes. Raises CheckpointError if there are no weights or any file is faulty."""
        self._folder = folder
        self._kinds = kinds
        self._mapped: tuple[str, dict[str, torch.Tensor]] | None = None  # the pickle that is open
        self._read_bytes = 0
        self.files = self._find()
        self.tensors: dict[str, TensorInfo] = {}
        self._begins: dict[str, int] = {}  # of the tensors in safetensors files: where their bytes lie
        for name in self.files:
            for key, info in self._table_of_contents(name).items():
                if key in self.tensors:
                    self._fail(name, f"{printable(key)}: expected in one file, found also in {self.tensors[key].file}")
                self.tensors[key] = info
        if self._index is not None:
            self._check_index(*self._index)

    @property
    def source(self) -> str:
        """The name of the file that should name every tensor: the index, or the one file with weights."""
        return self.files[0] if self._index is None else self._index[0]

    @property
    def place(self) -> str:
        """The folder, for messages about its files."""
        return f"{printable(self._folder.root)}/"

    @property
    def pickled(self) -> bool:
        """Whether the weights are in pickles, which one thread at a time can read."""
        return self.files[0].endswith(".bin")

    def read(self, key: str) -> torch.Tensor:
        """The values stored under `key`; of a pickle, a view of the file, which stays mapped while somebody holds it."""
        info = self.tensors[key]
        if not self.pickled:
            values = torch.empty(info.shape, dtype=info.dtype)
            for _ in self.read_pieces(key, values):
                pass
            return values
        if self._mapped is None or self._mapped[0] != info.file or self._read_bytes > REOPEN_AFTER:
            self._mapped = None
            self._mapped = (info.file, load_pickled(self._folder.path(info.file)))
            self._read_bytes = 0
        tensor = self._mapped[1].get(key)
        if tensor is None or tuple(tensor.shape) != info.shape or tensor.dtype != info.dtype:
            self._fail(info.file, f"{printable(key)}: the file changed while it was read")
        self._read_bytes += tensor.numel() * tensor.element_size()
        return tensor

    def read_pieces(self, key: str, values: torch.Tensor) -> Iterator[torch.Tensor]:
        """Fills `values`, contiguous and of the stored shape and dtype, without a copy in between; safetensors only.

        Yields each piece once it is filled, flat and small enough to be looked at while the processor's cache holds it.
        """
        info = self.tensors[key]
        size = PIECE_BYTES // info.dtype.itemsize
        position = self._begins[key]
        with self._folder.path(info.file).open("rb", buffering=0) as file:
            for piece in torch.split(values.detach().reshape(-1), size) if values.numel() else ():
                left = memoryview(piece.view(torch.uint8).numpy().data)
                while left:
                    count = os.preadv(file.fileno(), [left], position)
                    if count == 0:
                        self._fail(info.file, f"{printable(key)}: the file changed while it was read")
                    left, position = left[count:], position + count
                yield piece

    def close(self) -> None:
        """Closes the file that is open, if any."""
        self._mapped = None

    def _fail(self, name: str, what: str) -> NoReturn:
        raise CheckpointError(f"{printable(self._folder.path(name))}: {what}")

    def _find(self) -> list[str]:
        """The names of the files that hold the weights."""
        self._index: tuple[str, dict[str, str], Any] | None = None
        for kind in self._kinds:
            if self._folder.has(kind.single):
                return [kind.single]
            if self._folder.has(kind.index):
                weight_map, size = _read_index(self._folder.path(kind.index), kind.suffix)
                self._index = (kind.index, weight_map, size)
                return sorted(set(weight_map.values()))
        try:
            names = sorted(printable(path.name, 40) for path in self._folder.root.iterdir())
        except OSError as error:
            names = [f"a folder that cannot be listed: {error.strerror}"]
        found = ", ".join(names[:8]) or "an empty folder"
        *others, last = (name for kind in self._kinds for name in (kind.single, kind.index))
        raise CheckpointError(f"{printable(self._folder.root)}: expected {', '.join(others)} or {last}, found {found}")

    def _table_of_contents(self, name: str) -> dict[str, TensorInfo]:
        path = self._folder.path(name)
        if name.endswith(".bin"):
            return {
                key: TensorInfo(key, tensor.dtype, tuple(tensor.shape), name)
                for key, tensor in load_pickled(path).items()
            }
        header = read_header(path)
        self._begins.update(header.begins)
        return {key: TensorInfo(key, info.dtype, info.shape, name) for key, info in header.tensors.items()}

    def _check_index(self, index: str, weight_map: dict[str, str], total_size: object) -> None:
        for key, name in weight_map.items():
            if key not in self.tensors or self.tensors[key].file != name:
                there = f"it in {self.tensors[key].file}" if key in self.tensors else "none"
                self._fail(index, f"{printable(key)}: expected this tensor in {name}, found {there}")
        for key, info in self.tensors.items():
            if key not in weight_map:
                self._fail(
                    index, f"{printable(key)}: expected every tensor of {info.file} to be listed, found it missing"
                )
        held = sum(self._folder.path(name).stat().st_size for name in self.files)
        # Twice: old writers counted tied tensors once per name.
        if total_size is not None and not (isinstance(total_size, int | float) and 0 <= total_size <= 2 * held):
            self._fail(
                index, f"total_size: expected at most the {held} bytes of the shards, found {printable(total_size)}"
            )


def find_folder(
    name_or_path: str | Path, kinds: tuple[WeightFiles, ...] = (SAFE, BIN), **where: Unpack[HubOptions]
) -> Folder:
    """The folder of a checkpoint, fetched from the hub if it is not here; each kind of file only if there is none before."""
    for kind in kinds:
        folder = Folder(local_folder(name_or_path, patterns=(*BESIDE, *kind.patterns), **where))
        if folder.has(kind.single) or folder.has(kind.index):
            break
    return folder


@contextmanager
def open_checkpoint(folder: Folder, kinds: tuple[WeightFiles, ...] = (SAFE, BIN)) -> Iterator[Checkpoint]:
    """The checkpoint in `folder`, closed at the end."""
    checkpoint = Checkpoint(folder, kinds)
    try:
        yield checkpoint
    finally:
        checkpoint.close()


def _read_index(path: Path, suffix: str) -> tuple[dict[str, str], Any]:
    """The weight map of an index and its declared size; every file it names must be a plain name with this suffix."""
    index, shown = read_json(path), printable(path)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{shown}: weight_map: expected tensor names and their files, found {printable(weight_map)}"
        )
    for key, name in weight_map.items():
        if not isinstance(name, str) or not _is_plain(name) or not name.endswith(suffix):
            raise CheckpointError(
                f"{shown}: {printable(key)}: expected the name of a {suffix} file in the same folder, found {printable(name)}"
            )
    metadata = index.get("metadata", {})
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{shown}: metadata: expected an object, found {type(metadata).__name__}")
    return weight_map, metadata.get("total_size")


def _is_plain(name: str) -> bool:
    """A file name and no path: nothing that leads out of the folder."""
    return name.isprintable() and not {"/", "\\", ":"} & set(name) and not name.startswith(".") and len(name) < 256
