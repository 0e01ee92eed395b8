"""modules.json: the parts of a sentence-transformers folder, and where each has its files."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from minitrans.errors import CheckpointError, NotSupportedError
from minitrans.files import atomic_write, printable, read_json, read_text
from weights_convert.checkpoint import SAFE, open_checkpoint
from weights_convert.journal import Folder

MODULES_FILE = "modules.json"
CONFIG_FILE = "config.json"
KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
# Which settings of its modules a folder may hold besides.
SETTINGS_FILES = ("config_sentence_transformers.json", "sentence_bert_config.json")
# What to ask the hub for.
PATTERNS = (MODULES_FILE, *SETTINGS_FILES, "*_Pooling/*", "*_Dense/config.json", "*_Dense/model.safetensors")
_PACKAGE = "sentence_transformers."


@dataclass(frozen=True)
class Module:
    """One part.

    Attributes:
        kind: one of KINDS.
        path: its folder, relative to that of modules.json; "" = that folder itself.
    """

    kind: str
    path: str


def read_modules(root: Path) -> list[Module]:
    """The parts in their order; none where there is no such file. Names of classes are compared, never imported.

    Raises:
        CheckpointError: where the file is not a list of modules, or names a folder outside.
        NotSupportedError: for a kind of module that is not offered.
    """
    path = root / MODULES_FILE
    if not path.exists():
        return []
    text = read_text(path)
    try:
        entries = [(str(entry["type"]), str(entry["path"])) for entry in json.loads(text)]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise CheckpointError(f"{printable(path)}: expected a list of modules, each with a type and a path") from None
    modules = []
    for name, folder in entries:
        kind = name.rpartition(".")[2]
        if not name.startswith(_PACKAGE) or kind not in KINDS:
            raise NotSupportedError(
                f"{printable(path)}: the module {printable(name)!r} is not offered, only {', '.join(KINDS)} of "
                "sentence_transformers"
            )
        if not is_inside(folder):
            raise CheckpointError(f"{printable(path)}: expected a path inside the folder, found {printable(folder)!r}")
        modules.append(Module(kind, folder.rstrip("/")))
    return modules


def copy_modules(origin: Path, target: Path, modules: list[Module]) -> list[str]:
    """Copies what the parts besides the body have of their own, weights as safetensors; returns the names of the files.

    Raises:
        CheckpointError: for a file that is not what it must be. ValueError: for a place that cannot be written.
    """
    from safetensors.torch import save_file

    names = []
    for module in modules:
        source, place = origin / module.path, target / module.path
        if module.kind == "Transformer" or (module.kind == "Normalize" and not (source / CONFIG_FILE).exists()):
            continue
        if place.resolve() != target.resolve() / module.path or (place.exists() and not place.is_dir()):
            raise ValueError(f"{printable(place)}: expected a folder in the destination, found a link or a file")
        read_json(source / CONFIG_FILE)
        place.mkdir(parents=True, exist_ok=True)
        with atomic_write(place / CONFIG_FILE) as temporary:
            shutil.copyfile(source / CONFIG_FILE, temporary)
        names.append(f"{module.path}/{CONFIG_FILE}")
        if module.kind == "Dense":
            with open_checkpoint(Folder(source)) as checkpoint, atomic_write(place / SAFE) as temporary:
                save_file({key: checkpoint.read(key).clone() for key in checkpoint.tensors}, temporary)
            names.append(f"{module.path}/{SAFE}")
    return names


def is_inside(path: str) -> bool:
    """Whether a relative path stays below where it starts: plain segments only, or nothing at all."""
    segments = path.removesuffix("/").split("/")
    plain = all(segment not in ("", ".", "..") and not set("\0\\:") & set(segment) for segment in segments)
    return path == "" or plain
