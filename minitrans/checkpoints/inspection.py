"""What a checkpoint holds, read from its headers alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from minitrans.models.auto import stored_config
from minitrans.models.config_file import StoredConfig
from weights_convert.checkpoint import find_folder, open_checkpoint
from weights_convert.plan import TensorInfo
from weights_convert.report import dtype_name


@dataclass(frozen=True)
class Inspection:
    """The configuration of a checkpoint and the table of its tensors."""

    folder: Path
    stored: StoredConfig
    files: tuple[str, ...]
    tensors: tuple[TensorInfo, ...]

    @property
    def num_parameters(self) -> int:
        """Numbers stored; tied tensors that stand twice in the file count twice."""
        return sum(prod(info.shape) for info in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "folder": str(self.folder),
            "model_type": self.stored.config.model_type,
            "architectures": list(self.stored.architectures),
            "config": self.stored.config.to_dict(),
            "ignored": self.stored.ignored,
            "files": list(self.files),
            "tensors": [
                {"key": info.key, "dtype": dtype_name(info.dtype), "shape": list(info.shape), "file": info.file}
                for info in self.tensors
            ],
        }


def inspect(name_or_path: str | Path, *, revision: str | None = None, local_files_only: bool = False) -> Inspection:
    """The configuration and the tensor table of a checkpoint; no weights are read.

    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """
    folder = find_folder(name_or_path, revision=revision, local_files_only=local_files_only)
    stored = stored_config(folder)
    with open_checkpoint(folder) as checkpoint:
        return Inspection(folder.root, stored, tuple(checkpoint.files), tuple(checkpoint.tensors.values()))
