"""A checkpoint of any supported form -> a clean one in safetensors, with a full account."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from minitrans.errors import CheckpointError, NotSupportedError
from minitrans.files import printable, require_regular_file
from minitrans.hub import local_folder
from weights_convert.configs import read_stored_config
from weights_convert.journal import saving
from weights_convert.load import find_folder, load_folder
from weights_convert.modules import MODULES_FILE, PATTERNS, SETTINGS_FILES, Module, copy_modules, read_modules
from weights_convert.report import ConversionReport
from weights_convert.save import save_model
from weights_convert.verify import architecture

# What a tokenizer and a recipe for sentence vectors need goes along unchanged.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    *SETTINGS_FILES,
)


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    class_name: str | None = None,
    dtype: torch.dtype | str | None = None,
    max_shard_size: int | str = "5GB",
    force: bool = False,
    revision: str | None = None,
    local_files_only: bool = False,
) -> ConversionReport:
    """Reads a checkpoint, checks it, and writes it anew under `destination`; returns the account of the reading.

    Args:
        source: a folder, or a name on the Hugging Face hub.
        destination: a folder that is absent or empty, unless `force`; never the source or inside it.
        class_name: for example "BertForMaskedLM"; None = the first that config.json names.
        dtype: of the written weights; None = as stored.
        max_shard_size: beyond it the weights go into several files.
        force: write into a folder that holds something.
        revision: of a hub repository.
        local_files_only: never ask the network.

    Raises:
        CheckpointError: naming every fault of the source. ValueError: for a destination that cannot be used.
    """
    from minitrans.models.auto import class_by_name

    target = Path(destination)
    folder = find_folder(source, revision=revision, local_files_only=local_files_only)
    origin = folder.root.resolve()
    if target.resolve() == origin or origin in target.resolve().parents:
        raise ValueError(f"{printable(target)}: expected a destination outside the source, found {printable(origin)}")
    if target.exists() and not target.is_dir():
        raise ValueError(f"{printable(target)}: expected a folder as destination, found a file")
    if not force and target.is_dir() and any(target.iterdir()):
        raise ValueError(
            f"{printable(target)}: expected an empty or absent destination, found files; --force writes into it"
        )
    local_folder(  # the hub's copy has the weights so far
        source, patterns=(*COMPANIONS, *PATTERNS), revision=revision, local_files_only=local_files_only
    )
    modules, no_modules = _modules(origin)
    name = class_name or architecture(folder, read_stored_config(folder))
    model, report = load_folder(class_by_name(name), folder, dtype=dtype, changes={}, hashes=True)
    if report.fresh:
        raise CheckpointError(
            f"{printable(folder.root)}: expected the head of {name}, found none: {', '.join(report.fresh[:4])}; "
            "a random head is not converted, name the class of what is there, for example the bare model"
        )
    save_model(model, target, max_shard_size=max_shard_size)
    # The parts of a sentence encoder come before the list of them, so that a list never names what is not there.
    copied = copy_modules(origin, target, modules)
    names = (*COMPANIONS, MODULES_FILE) if modules else COMPANIONS
    companions = [name for name in names if os.path.lexists(origin / name)]
    with saving(target) as save:
        for companion in companions:
            require_regular_file(origin / companion)
            shutil.copyfile(origin / companion, save.stage(companion))
        save.remove([name for name in (MODULES_FILE, *SETTINGS_FILES) if name not in companions])
    companions += copied
    report.notes += no_modules
    report.notes.append(
        f"written to {printable(target)} as {name}{', with ' + ', '.join(companions) if companions else ''}"
    )
    return report


def _modules(origin: Path) -> tuple[list[Module], list[str]]:
    """The parts of a sentence encoder that go along, or a note why they do not."""
    try:
        return read_modules(origin), []
    except NotSupportedError as error:
        return [], [f"{MODULES_FILE} is left out: {error}"]
