"""A checkpoint of any supported form -> a clean one in safetensors, with a full account."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from minitrans.embedding.folder import MODULES_FILE, PATTERNS, SETTINGS_FILES, read_modules, read_parts
from minitrans.embedding.recipe import Module
from minitrans.errors import CheckpointError, NotSupportedError
from minitrans.files import MAX_TEXT_BYTES, printable, read_json, read_text, require_regular_file
from minitrans.hub import local_folder
from minitrans.models.auto import architecture, class_by_name, stored_config
from minitrans.models.config_file import StoredConfig
from minitrans.models.loading import load_folder
from minitrans.models.saving import save_model
from weights_convert.checkpoint import find_folder
from weights_convert.journal import Folder, Save, require_own_folder
from weights_convert.report import ConversionReport

# A tokenizer goes along unchanged. Settings come before the vocabulary, which nothing loads without, and of vocabularies
# first the one that is preferred.
TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "spm.model",
    "source.spm",
    "target.spm",
)
COMPANIONS = (*TOKENIZER_FILES, *SETTINGS_FILES)
# These raise CheckpointError for what is no such file at all; whether a tokenizer can be made of it is not asked.
_READERS: dict[str, Callable[[Path], object]] = {
    ".json": read_json,
    ".txt": read_text,
    ".model": lambda path: require_regular_file(path, MAX_TEXT_BYTES),
    ".spm": lambda path: require_regular_file(path, MAX_TEXT_BYTES),
}


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
        force: write into a folder that holds something; what it holds of an older checkpoint is replaced as a whole.
        revision: of a hub repository.
        local_files_only: never ask the network.

    Raises:
        CheckpointError: naming every fault of the source. ValueError: for a destination that cannot be used.
    """
    target = Path(destination)
    folder = find_folder(source, revision=revision, local_files_only=local_files_only)
    origin = folder.root.resolve()
    inside = target.resolve() == origin or origin in target.resolve().parents
    faults = {
        f"a destination outside the source, found {printable(origin)}": inside,
        "a folder as destination, found a file": target.exists() and not target.is_dir(),
        "an empty or absent destination, found files; --force writes into it": (
            not force and target.is_dir() and any(target.iterdir())
        ),
    }
    for expected, wrong in faults.items():
        if wrong:
            raise ValueError(f"{printable(target)}: expected {expected}")
    local_folder(  # the hub's copy has the weights so far
        source, patterns=(*COMPANIONS, *PATTERNS), revision=revision, local_files_only=local_files_only
    )
    modules, no_modules = _modules(folder)
    others = _read_others(folder, modules)
    for name in others:
        require_own_folder(target, name)
    name, model, report = load_whole(
        folder, stored_config(folder), class_name, done="converted", dtype=dtype, hashes=True
    )
    save_model(model, target, max_shard_size=max_shard_size, others=lambda save: _stage_others(save, others))
    report.notes += no_modules
    report.notes.append(f"written to {printable(target)} as {name}{', with ' + ', '.join(others) if others else ''}")
    return report


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


def _modules(folder: Folder) -> tuple[list[Module], list[str]]:
    """The parts of a sentence encoder that go along, or a note why they do not."""
    try:
        return read_modules(folder), []
    except NotSupportedError as error:
        return [], [f"{MODULES_FILE} is left out: {error}"]


def _read_others(folder: Folder, modules: list[Module]) -> dict[str, bytes]:
    """The files that go along, by name, in the order in which they are to appear: the list of the parts after the parts."""
    files = {}
    for name in COMPANIONS:
        if folder.has(name):
            path = folder.path(name)
            _READERS[path.suffix](path)
            files[name] = path.read_bytes()
    files |= read_parts(folder, modules)
    return files | ({MODULES_FILE: folder.path(MODULES_FILE).read_bytes()} if modules else {})


def _stage_others(save: Save, others: dict[str, bytes]) -> bool:
    """Stages what differs from what is there, and has an older checkpoint's files go; whether there is any difference."""
    names = list(dict.fromkeys((*COMPANIONS, *others, MODULES_FILE)))
    differ = {name for name in names if not save.holds(name, others.get(name))}
    if differ & set(TOKENIZER_FILES):  # a vocabulary that stays would be read without its settings
        differ |= set(TOKENIZER_FILES)
    for name in names:
        if name in differ and name in others:
            save.stage(name).write_bytes(others[name])
    save.hide([name for name in names if name in differ])
    return bool(differ)
