"""Reading `pytorch_model.bin`: tensors by name and nothing else, after our own look at the archive.

`torch.load(weights_only=True)` is the gate against code; the checks here are for what it lets pass: compressed records
(which it inflates without limit, or maps as if they were weights), names that stand twice, old tar files.
"""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

import torch

from minitrans.errors import CheckpointError
from minitrans.files import printable, refuse_impostor, require_regular_file

# The first pickle of torch's format before 1.6: protocol 2 and the 10-byte magic number.
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def load_pickled(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a torch file, mapped from it where the format allows. Raises CheckpointError; nothing in it is executed."""
    size = require_regular_file(path).st_size
    with path.open("rb") as file:
        start = file.read(512)
    refuse_impostor(path, start[:64])
    zipped = start.startswith(b"PK\x03\x04")
    records: Counter[int] = Counter()
    if zipped:
        records = _require_plain_archive(path, size)
    elif not start.startswith(LEGACY_START):
        tar = start[257:262] == b"ustar"
        found = "a tar archive" if tar else f"{size} bytes that begin with {printable(start[:16])}"
        raise CheckpointError(f"{printable(path)}: expected a file written by torch.save, found {found}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old ways of writing, which are no fault of who reads
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{printable(path)}: expected tensors only, found a pickle that asks for more (nothing was executed): "
            f"{_reason(error)}"
        ) from None
    except (RuntimeError, ValueError, TypeError, KeyError, EOFError, OSError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{printable(path)}: expected a whole torch file, found an error: {_reason(error)}"
        ) from None
    tensors = _checked(path, value, size)
    if zipped:
        _require_whole_storages(path, tensors, records)
    return tensors


def _reason(error: Exception) -> str:
    """The one line of torch's long message that says what was wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "WeightsUnpickler error" in line or "Unsupported" in line or "GLOBAL" in line]
    return printable((telling or lines or [type(error).__name__])[0], 200)


def _require_plain_archive(path: Path, size: int) -> Counter[int]:
    """The sizes of the records: each stored as it is, together no more than the file, names unique and inside one folder."""
    shown = printable(path)
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise CheckpointError(f"{shown}: expected a whole zip archive, found {printable(error)}") from None
    folders, names = set(), set()
    for record in records:
        name = record.orig_filename
        parts = PurePosixPath(name).parts
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise CheckpointError(f"{shown}: {printable(name)}: expected a stored record, found a compressed one")
        if name in names:
            raise CheckpointError(f"{shown}: {printable(name)}: expected one record of this name, found two")
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or len(parts) < 2:
            raise CheckpointError(f"{shown}: {printable(name)}: expected a record inside the archive's folder")
        if parts[1:] == ("constants.pkl",):
            raise CheckpointError(f"{shown}: expected a file written by torch.save, found a TorchScript program")
        names.add(name)
        folders.add(parts[0])
    if len(folders) != 1:
        raise CheckpointError(f"{shown}: expected one folder in the archive, found {len(folders)}")
    total = sum(record.file_size for record in records)
    if total > size:
        raise CheckpointError(f"{shown}: expected records of at most {size} bytes together, found {total}")
    return Counter(record.file_size for record in records)


def _require_whole_storages(path: Path, tensors: dict[str, torch.Tensor], records: Counter[int]) -> None:
    """Every storage must have a record of its size: mapped from a shorter one, torch would read on into the next."""
    storages: dict[int, tuple[int, str]] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if storage.nbytes():
            storages.setdefault(storage.data_ptr(), (storage.nbytes(), name))
    for size, name in storages.values():
        records[size] -= 1
        if records[size] < 0:
            raise CheckpointError(
                f"{printable(path)}: {printable(name)}: expected a record of {size} bytes in the archive, found none"
            )


def _checked(path: Path, value: object, size: int) -> dict[str, torch.Tensor]:
    shown = printable(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{shown}: expected a mapping of names to tensors, found {type(value).__name__}")
    if not value:
        raise CheckpointError(f"{shown}: expected tensors, found none")
    for name, tensor in value.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{shown}: expected names as keys, found {printable(repr(name))}")
        if not isinstance(tensor, torch.Tensor):
            raise CheckpointError(f"{shown}: {printable(name)}: expected a tensor, found {type(tensor).__name__}")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_nested:
            found = f"{tensor.layout}, {tensor.dtype}, {tensor.device}"
            raise CheckpointError(f"{shown}: {printable(name)}: expected a plain dense tensor, found {found}")
        # Strides of 0 make a tensor of any size from one number.
        if tensor.numel() * tensor.element_size() > min(size, tensor.untyped_storage().nbytes()):
            raise CheckpointError(
                f"{shown}: {printable(name)}: expected at most {min(size, tensor.untyped_storage().nbytes())} bytes, "
                f"found {tensor.numel() * tensor.element_size()}"
            )
    return value
