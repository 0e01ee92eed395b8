"""modules.json: the parts of a sentence-transformers folder, and where each has its files."""

from __future__ import annotations

from dataclasses import dataclass

from minitrans.errors import CheckpointError, NotSupportedError
from minitrans.files import is_inside, printable, read_json, read_json_value
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


def read_modules(folder: Folder) -> list[Module]:
    """The parts in their order; none where there is no such file. Names of classes are compared, never imported.

    Raises:
        CheckpointError: where the file is not a list of modules, or names a folder outside.
        NotSupportedError: for a kind of module that is not offered.
    """
    if not folder.has(MODULES_FILE):
        return []
    path = folder.path(MODULES_FILE)
    entries = read_json_value(path)
    if not isinstance(entries, list) or not all(_names_a_module(entry) for entry in entries):
        raise CheckpointError(f"{printable(path)}: expected a list of modules, each with a type and a path")
    modules = []
    for name, place in ((entry["type"], entry["path"]) for entry in entries):
        kind = name.rpartition(".")[2]
        if not name.startswith(_PACKAGE) or kind not in KINDS:
            raise NotSupportedError(
                f"{printable(path)}: the module {printable(name)!r} is not offered, only {', '.join(KINDS)} of "
                "sentence_transformers"
            )
        if not is_inside(place):
            raise CheckpointError(f"{printable(path)}: expected a path inside the folder, found {printable(place)!r}")
        modules.append(Module(kind, place.rstrip("/")))
    return modules


def _names_a_module(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("type"), str) and isinstance(entry.get("path"), str)


def read_parts(folder: Folder, modules: list[Module]) -> dict[str, bytes]:
    """The files that the parts besides the body have of their own, by their names in the folder; weights as safetensors.

    Raises:
        CheckpointError: for a file that is not what it must be.
    """
    from safetensors.torch import save

    files = {}
    for module in modules:
        source = folder.below(module.path)
        if module.kind == "Transformer" or (module.kind == "Normalize" and not source.has(CONFIG_FILE)):
            continue
        read_json(source.path(CONFIG_FILE))
        files[f"{module.path}/{CONFIG_FILE}"] = source.path(CONFIG_FILE).read_bytes()
        if module.kind == "Dense":
            with open_checkpoint(source) as checkpoint:
                files[f"{module.path}/{SAFE}"] = save({key: checkpoint.read(key).clone() for key in checkpoint.tensors})
    return files
