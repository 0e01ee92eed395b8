"""Reading `pytorch_model.bin`: tensors by name and nothing else, after our own look at the archive.

`torch.load(weights_only=True)` is the gate against code; the checks here are for what it lets pass: compressed records
(which it inflates without limit, or maps as if they were weights), names that stand twice, old tar files.
"""

from __future__ import annotations

import pickle
import tarfile
import zipfile
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
        start = file.read(64)
    refuse_impostor(path, start)
    zipped = start.startswith(b"PK\x03\x04")
    if zipped:
        _require_plain_archive(path, size)
    elif not start.startswith(LEGACY_START):
        found = (
            "a tar archive"
            if size and tarfile.is_tarfile(path)
            else f"{size} bytes that begin with {printable(start[:16])}"
        )
        raise CheckpointError(f"{printable(path)}: expected a file written by torch.save, found {found}")
    try:
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
    return _checked(path, value, size)


def _reason(error: Exception) -> str:
    """The one line of torch's long message that says what was wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "WeightsUnpickler error" in line or "Unsupported" in line or "GLOBAL" in line]
    return printable((telling or lines or [type(error).__name__])[0], 200)


def _require_plain_archive(path: Path, size: int) -> None:
    """Every record stored as it is, sizes consistent with the file, names unique and inside one folder."""
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
        names.add(name)
        folders.add(parts[0])
    if len(folders) != 1:
        raise CheckpointError(f"{shown}: expected one folder in the archive, found {len(folders)}")
    total = sum(record.file_size for record in records)
    if total > size:
        raise CheckpointError(f"{shown}: expected records of at most {size} bytes together, found {total}")


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
        if tensor.layout != torch.strided or tensor.is_meta:
            raise CheckpointError(f"{shown}: {printable(name)}: expected a dense tensor, found {tensor.layout}")
        # Strides of 0 make a tensor of any size from one number.
        if tensor.numel() * tensor.element_size() > min(size, tensor.untyped_storage().nbytes()):
            raise CheckpointError(
                f"{shown}: {printable(name)}: expected at most {min(size, tensor.untyped_storage().nbytes())} bytes, "
                f"found {tensor.numel() * tensor.element_size()}"
            )
    return value
