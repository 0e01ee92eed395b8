"""Writing a tokenizer so that this package and the reference open it with the same ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, normalizers
from tokenizers import Tokenizer as Backend

from minitrans.files import atomic_write, write_json
from minitrans.tokenizers.families import Family
from minitrans.tokenizers.loading import TOKENIZER_FILE
from minitrans.tokenizers.settings import CONFIG_FILE

_SECTIONS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_FLAGS = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")


def flags(token: AddedToken) -> dict[str, Any]:
    """A token as the files write it."""
    return {name: getattr(token, name) for name in _FLAGS}


def is_of_family(backend: Backend, family: Family, options: Mapping[str, Any], roles: Mapping[str, str]) -> bool:
    """Whether the pipeline is what the reference's class of that name rebuilds from vocabulary and options alone."""
    if family.dress is None or family.roles.keys() - {"mask_token"} - roles.keys():
        return False
    text = backend.to_str()
    document, rebuilt = json.loads(text), Backend.from_str(text)
    charsmap = (document.get("normalizer") or {}).get("precompiled_charsmap")
    if family.model == "Unigram":
        rebuilt.normalizer = None
    family.dress(rebuilt, {**options, "charsmap": b""}, roles)
    if charsmap:
        rebuilt.normalizer = backend.normalizer if isinstance(backend.normalizer, normalizers.Precompiled) else None
    found = json.loads(rebuilt.to_str())
    return all(found[section] == document[section] for section in _SECTIONS)


def save(backend: Backend, config: dict[str, Any], folder: Path) -> tuple[str, ...]:
    """Writes tokenizer.json and `config` as tokenizer_config.json into `folder`, creating it; returns their paths."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"save_pretrained({str(folder)!r}): expected a folder, found a file")
    folder.mkdir(parents=True, exist_ok=True)
    backend = Backend.from_str(backend.to_str())
    backend.no_truncation()
    backend.no_padding()
    with atomic_write(folder / TOKENIZER_FILE) as temporary:
        temporary.write_text(backend.to_str(pretty=True), encoding="utf-8")
    write_json(folder / CONFIG_FILE, config)
    return str(folder / CONFIG_FILE), str(folder / TOKENIZER_FILE)
