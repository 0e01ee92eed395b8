"""Writing a tokenizer so that this package and the reference open it with the same ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, normalizers
from tokenizers import Tokenizer as Backend

from minitrans.files import atomic_write, write_json
from minitrans.tokenizers.families import GENERIC, Family
from minitrans.tokenizers.loading import TOKENIZER_FILE
from minitrans.tokenizers.settings import CONFIG_FILE

if TYPE_CHECKING:
    from minitrans.tokenizers.tokenizer import Tokenizer

_SECTIONS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_FLAGS = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")


def _flags(token: AddedToken) -> dict[str, Any]:
    return {name: getattr(token, name) for name in _FLAGS}


def _is_of_family(
    backend: Backend, document: Mapping[str, Any], family: Family, options: Mapping[str, Any], roles: Mapping[str, str]
) -> bool:
    """Whether the pipeline is what the reference's class of that name rebuilds from vocabulary and options alone."""
    if family.dress is None or family.roles.keys() - {"mask_token"} - roles.keys():
        return False
    rebuilt = Backend.from_str(json.dumps(document))
    charsmap = (document.get("normalizer") or {}).get("precompiled_charsmap")
    if family.model == "Unigram":
        rebuilt.normalizer = None
    family.dress(rebuilt, {**options, "charsmap": b""}, roles)
    if charsmap:
        rebuilt.normalizer = backend.normalizer if isinstance(backend.normalizer, normalizers.Precompiled) else None
    found = json.loads(rebuilt.to_str())
    return all(found[section] == document[section] for section in _SECTIONS)


def save(tokenizer: Tokenizer, folder: Path) -> tuple[str, ...]:
    """Writes both files into `folder`, creating it; the config names every added token, so stale companions are not read."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"save_pretrained({str(folder)!r}): expected a folder, found a file")
    folder.mkdir(parents=True, exist_ok=True)
    backend = Backend.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    text = backend.to_str(pretty=True)
    family, options, roles = tokenizer.family, tokenizer._options, tokenizer.special_tokens_map
    of_family = _is_of_family(backend, json.loads(text), family, options, roles)
    config = {
        **(options if of_family else {}),
        **dict.fromkeys(family.roles),
        **roles,
        "added_tokens_decoder": {str(index): _flags(token) for index, token in tokenizer.added_tokens_decoder.items()},
        "clean_up_tokenization_spaces": tokenizer.clean_up_tokenization_spaces,
        "additional_special_tokens": tokenizer.extra_special_tokens,  # this name, since transformers 4 fails on the newer
        "model_input_names": tokenizer.model_input_names,
        "model_max_length": tokenizer.model_max_length,
        "padding_side": tokenizer.padding_side,
        "tokenizer_class": family.name if of_family else GENERIC.name,
        "truncation_side": tokenizer.truncation_side,
    }
    with atomic_write(folder / TOKENIZER_FILE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_json(folder / CONFIG_FILE, config)
    return str(folder / CONFIG_FILE), str(folder / TOKENIZER_FILE)
