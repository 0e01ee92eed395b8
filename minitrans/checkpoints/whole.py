"""A checkpoint as the model that it holds, all of it."""

from __future__ import annotations

from typing import Any

import torch

from minitrans.errors import CheckpointError
from minitrans.files import printable
from minitrans.models.auto import architecture, class_by_name
from minitrans.models.config_file import StoredConfig
from minitrans.models.loading import load_folder
from weights_convert.journal import Folder
from weights_convert.report import ConversionReport


def load_whole(
    folder: Folder,
    stored: StoredConfig,
    class_name: str | None,
    *,
    done: str,
    dtype: torch.dtype | str | None = None,
    hashes: bool = False,
) -> tuple[str, Any, ConversionReport]:
    """The class, the model and the account; `done` says what happens to it: what is random cannot be that.

    Raises:
        CheckpointError: for every fault of the files, and where they lack a part of the model.
    """
    name = class_name or architecture(folder, stored)
    model, report = load_folder(class_by_name(name), folder, dtype=dtype, changes={}, hashes=hashes)
    if report.fresh:
        raise CheckpointError(
            f"{printable(folder.root)}: expected the head of {name}, found none: {', '.join(report.fresh[:4])}; "
            f"a random head is not {done}, name the class of what is there, for example the bare model"
        )
    return name, model, report
