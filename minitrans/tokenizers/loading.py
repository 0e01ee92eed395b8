"""From the files of a checkpoint folder, or from files and arguments of the caller, to a backend with its settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from minitrans.errors import CheckpointError
from minitrans.files import printable, read_json
from minitrans.tokenizers.backend import probe
from minitrans.tokenizers.families import Family, build_model, install_tokens, role_texts
from minitrans.tokenizers.settings import ADDED_FILE, CONFIG_FILE, SPECIAL_FILE, Settings
from minitrans.tokenizers.tokenizer_json import PIPELINE_OPTIONS, read_options, read_tokenizer_json

TOKENIZER_FILE, MODEL_CONFIG_FILE = "tokenizer.json", "config.json"
VOCABULARY_FILES = ("vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model")
PATTERNS = (TOKENIZER_FILE, MODEL_CONFIG_FILE, CONFIG_FILE, SPECIAL_FILE, ADDED_FILE, *VOCABULARY_FILES)


@dataclass(frozen=True)
class Loaded:
    """A ready backend, role -> token, the pipeline's options as they are in effect, and the merged settings."""

    backend: Backend
    roles: dict[str, str | None]
    options: dict[str, Any]
    settings: Settings


def vocabulary_files(folder: Path, family: Family) -> dict[str, Path]:
    """The files of `folder` to build `family` from: tokenizer.json if there, else all its raw files.

    Raises:
        CheckpointError: if they are not all there, saying what is.
    """
    if os.path.lexists(folder / TOKENIZER_FILE):
        return {TOKENIZER_FILE: folder / TOKENIZER_FILE}
    files = {name: folder / name for name in family.raw_files}
    if not files or not all(os.path.lexists(path) for path in files.values()):
        present = [name for name in VOCABULARY_FILES if os.path.lexists(folder / name)]
        wanted = " and ".join(family.raw_files)
        raise CheckpointError(
            f"{printable(folder)}: expected {TOKENIZER_FILE}{f', or {wanted}' if wanted else ''}, "
            f"found {', '.join(present) if present else 'no vocabulary file'}"
        )
    return files


def load(family: Family, files: Mapping[str, Any], settings: Settings, caller_options: Mapping[str, Any]) -> Loaded:
    """Builds the backend and declares its tokens.

    Args:
        family: what the class presumes.
        files: file name -> path (or, from a constructor, the vocabulary itself).
        settings: merged from files and caller.
        caller_options: the pipeline options that the caller, not a file, asked for.

    Raises:
        CheckpointError: naming file and line, key or token.
        ValueError: if the caller asks for an option that this tokenizer.json has no place for.
    """
    origin = next(iter(files.values()))
    origin = origin if isinstance(origin, str | Path) else "vocab"
    if TOKENIZER_FILE in files:
        stated = {name: value for name, value in settings.pipeline.items() if name in PIPELINE_OPTIONS}
        backend, document = read_tokenizer_json(files[TOKENIZER_FILE], family.model, stated)
        options = {**family.options, **read_options(document)}
        for name, value in caller_options.items():
            if name not in read_options(document) and options.get(name) != value:
                raise ValueError(f"{name}={value!r}: {printable(origin)} has no place for this option")
        _take_baked(document, settings)
        roles = install_tokens(backend, family, settings, origin)
    else:
        backend, options = build_model(family, files, settings)
        roles = install_tokens(backend, family, settings, origin)
        assert family.dress is not None
        family.dress(backend, options, role_texts(settings))
        options.pop("charsmap", None)
    probe(backend, origin)
    return Loaded(backend, roles, options, settings)


def _take_baked(document: Mapping[str, Any], settings: Settings) -> None:
    """Takes the sides, and a missing pad token, from the padding and truncation that a tokenizer.json carries."""
    padding, truncation = document.get("padding"), document.get("truncation")
    if isinstance(padding, dict):
        settings.plain.setdefault("padding_side", str(padding.get("direction", "right")).lower())
        if "pad_token" not in settings.roles and isinstance(padding.get("pad_token"), str):
            settings.roles["pad_token"] = padding["pad_token"]
    if isinstance(truncation, dict):
        settings.plain.setdefault("truncation_side", str(truncation.get("direction", "right")).lower())


def require_room_in_table(backend: Backend, by_caller: set[str], folder: Path, origin: object) -> None:
    """Raises CheckpointError if config.json beside the vocabulary has too small a `vocab_size` for one of its ids."""
    path = folder / MODEL_CONFIG_FILE
    size = read_json(path).get("vocab_size") if os.path.lexists(path) else None
    if type(size) is not int:
        return
    token, index = max(
        (item for item in backend.get_vocab(with_added_tokens=True).items() if item[0] not in by_caller),
        key=lambda item: item[1],
    )
    if index >= size:
        raise CheckpointError(
            f"{printable(origin)}: {printable(token)!r}: expected an id below {size}, "
            f"the vocab_size of {printable(path)}, found {index}"
        )
