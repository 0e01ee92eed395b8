"""AutoTokenizer: the class that a checkpoint's files ask for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from minitrans.errors import CheckpointError
from minitrans.families import FAMILIES
from minitrans.files import printable, read_json
from minitrans.hub import local_folder
from minitrans.tokenizers import classes
from minitrans.tokenizers.classes import BertTokenizer, RobertaTokenizer
from minitrans.tokenizers.loading import MODEL_CONFIG_FILE, PATTERNS, TOKENIZER_FILE
from minitrans.tokenizers.settings import CONFIG_FILE
from minitrans.tokenizers.tokenizer import Tokenizer

_BY_FILE = {"vocab.txt": BertTokenizer, "merges.txt": RobertaTokenizer}  # a sentencepiece file alone does not tell


def known_classes() -> dict[str, type[Tokenizer]]:
    """The tokenizers of the families, and the names of what is read from tokenizer.json alone."""
    named = {row.tokenizer: getattr(classes, row.tokenizer) for row in FAMILIES.values()}
    return {**named, "PreTrainedTokenizer": Tokenizer, "TokenizersBackend": Tokenizer}


def tokenizer_class(folder: Path) -> type[Tokenizer]:
    """The class for the files in `folder`: named by tokenizer_config.json or config.json, or told by its files.

    Raises:
        CheckpointError: if the named class is not one of ours, or nothing tells.
    """
    model_config = folder / MODEL_CONFIG_FILE
    for path in (folder / CONFIG_FILE, model_config):
        name = read_json(path).get("tokenizer_class") if os.path.lexists(path) else None
        if name is None:
            continue
        found = known_classes().get(name.removesuffix("Fast")) if isinstance(name, str) else None
        if found is None:
            raise CheckpointError(
                f"{printable(path)}: tokenizer_class: expected one of {', '.join(known_classes())}, found {printable(name)!r}"
            )
        return found
    model_type = read_json(model_config).get("model_type") if os.path.lexists(model_config) else None
    if isinstance(model_type, str) and model_type in FAMILIES:
        return known_classes()[FAMILIES[model_type].tokenizer]
    if os.path.lexists(folder / TOKENIZER_FILE):
        return Tokenizer
    for file, found in _BY_FILE.items():
        if os.path.lexists(folder / file):
            return found
    raise CheckpointError(
        f"{printable(folder)}: expected {TOKENIZER_FILE}, a tokenizer_class in {CONFIG_FILE} or a model_type of "
        f"{', '.join(FAMILIES)} in {MODEL_CONFIG_FILE}, found none; name the class, as BertTokenizer.from_pretrained"
    )


class AutoTokenizer:
    """Opens a checkpoint's tokenizer without naming its class. It has no instances."""

    def __init__(self) -> None:
        raise TypeError("AutoTokenizer has no instances; use AutoTokenizer.from_pretrained(folder_or_name)")

    @staticmethod
    def from_pretrained(
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> Tokenizer:
        """As `Tokenizer.from_pretrained`, with the class that the checkpoint asks for. No code of it is run."""
        folder = local_folder(
            pretrained_model_name_or_path, patterns=PATTERNS, revision=revision, local_files_only=local_files_only
        )
        tokenizer = tokenizer_class(folder).from_pretrained(folder, **overrides)
        tokenizer.name_or_path = str(pretrained_model_name_or_path)
        return tokenizer
