"""The files of a sentence-transformers folder besides those of the body, as strangers may have written them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minitrans.embedding.head import ACTIVATIONS, POOLINGS, Dense
from minitrans.embedding.recipe import Module, Recipe
from minitrans.embedding.similarity import SIMILARITIES
from minitrans.errors import CheckpointError, NotSupportedError
from minitrans.files import is_inside, printable, read_json, read_json_value
from minitrans.hub import local_folder
from weights_convert.checkpoint import SAFE, open_checkpoint
from weights_convert.journal import Folder

MODULES_FILE = "modules.json"
CONFIG_FILE = "config.json"
PROMPTS_FILE = "config_sentence_transformers.json"
LENGTH_FILE = "sentence_bert_config.json"
# Which settings of its modules a folder may hold besides.
SETTINGS_FILES = (PROMPTS_FILE, LENGTH_FILE)
# What to ask the hub for.
PATTERNS = (MODULES_FILE, *SETTINGS_FILES, "*_Pooling/*", "*_Dense/config.json", "*_Dense/model.safetensors")
KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
MAX_WIDTH = 2**20
_PACKAGE = "sentence_transformers."
# "pooling_mode" of the file -> ours; older files have a flag for each instead, joined in this order
_MODES = {mode: mode for mode in POOLINGS} | {"mean_sqrt_len_tokens": "mean_sqrt_len"}
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_USUAL = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding", "use_residual": False}


def read_recipe(name_or_path: str | Path, *, revision: str | None = None, local_files_only: bool = False) -> Recipe:
    """The recipe of a sentence-transformers folder; that of a plain checkpoint is the mean over the tokens.

    Raises:
        CheckpointError: where the files are not what they must be.
        NotSupportedError: for modules or a kind of pooling that is not offered.
    """
    root = local_folder(name_or_path, patterns=PATTERNS, revision=revision, local_files_only=local_files_only)
    folder = Folder(root)
    modules = read_modules(folder)
    kinds = [module.kind for module in modules]
    path, found = folder.root / MODULES_FILE, ", ".join(kinds)
    once = kinds[:1] in ([], ["Transformer"]) and kinds.count("Transformer") < 2 and kinds.count("Pooling") < 2
    _offer(once, path, f"only one Transformer, then one Pooling is offered, found {found}")
    follows = len(kinds) < 2 or kinds[1] == "Pooling"
    _offer(follows, path, f"a Pooling must follow the Transformer at once, found {found}")
    pooling, prompt_counts = _read_pooling(folder.below(modules[1].path)) if len(modules) > 1 else (("mean",), True)
    body = modules[0].path if modules else ""
    length, lower_case = _read_length(folder.below(body))
    settings = _read_settings(folder)
    return Recipe(pooling, length, lower_case, tuple(modules[2:]), prompt_counts=prompt_counts, body=body, **settings)


def body_place(name_or_path: str | Path, recipe: Recipe, **options: Any) -> str | Path:
    """What to load the body and its tokenizer from: old folders keep it in one of its own.

    Raises:
        CheckpointError: where there is no such folder.
    """
    if not recipe.body:
        return name_or_path
    root = local_folder(name_or_path, patterns=(f"{recipe.body}/*",), **options)
    _require((root / recipe.body).is_dir(), root / MODULES_FILE, f"a folder {printable(recipe.body)}", "none")
    return root / recipe.body


def read_head(
    name_or_path: str | Path, recipe: Recipe, *, revision: str | None = None, local_files_only: bool = False
) -> list[Dense]:
    """The "Dense" layers of the recipe. Raises as `read_dense` does."""
    paths = [module.path for module in recipe.head if module.kind == "Dense"]
    if not paths:
        return []
    root = local_folder(name_or_path, patterns=PATTERNS, revision=revision, local_files_only=local_files_only)
    return [read_dense(Folder(root).below(path)) for path in paths]


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
        ours = name.startswith(_PACKAGE) and kind in KINDS
        _offer(
            ours,
            path,
            f"the module {printable(name)!r} is not offered, only {', '.join(KINDS)} of sentence_transformers",
        )
        _require(is_inside(place), path, "a path inside the folder", repr(place))
        modules.append(Module(kind, place.rstrip("/")))
    return modules


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
                files[f"{module.path}/{SAFE.single}"] = save(
                    {key: checkpoint.read(key).clone() for key in checkpoint.tensors}
                )
    return files


def read_dense(folder: Folder) -> Dense:
    """The layer in a folder with config.json and model.safetensors.

    Raises:
        CheckpointError: where a file is not what it must be. NotSupportedError: for options that are not offered.
    """
    path = folder.path(CONFIG_FILE)
    stored = read_json(path)
    out: Any = stored.get("out_features")
    width: Any = stored.get("in_features")
    for key, value in (("out_features", out), ("in_features", width)):
        right = _is_whole(value, 1) and value <= MAX_WIDTH
        _require(right, path, f"{key}: a number from 1 to {MAX_WIDTH}", value)
    activation = str(stored.get("activation_function", "torch.nn.modules.activation.Tanh"))
    known = ", ".join(ACTIVATIONS)
    _offer(
        activation in ACTIVATIONS,
        path,
        f"activation_function: expected one of {known}, found {printable(activation)!r}",
    )
    for key, usual in _USUAL.items():
        _offer(
            stored.get(key) in (None, usual),
            path,
            f"{key}: only {usual!r} is offered, found {printable(stored.get(key))}",
        )
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (out, width)}
    if stored.get("bias", True):
        shapes["linear.bias"] = (out,)
    with open_checkpoint(folder) as checkpoint:
        found = {key: info.shape for key, info in checkpoint.tensors.items()}
        _require(found == shapes, folder.path(checkpoint.files[0]), _shown(shapes), _shown(found))
        tensors = {key: checkpoint.read(key).clone() for key in shapes}
    return Dense(tensors["linear.weight"], tensors.get("linear.bias"), activation)


def _read_pooling(folder: Folder) -> tuple[tuple[str, ...], bool]:
    path = folder.path(CONFIG_FILE)
    stored = read_json(path)
    found: Any = stored.get("pooling_mode")
    if found is None:
        flags = [key for key, value in stored.items() if key.startswith("pooling_mode_") and value is True]
        unknown = sorted(set(flags) - set(_FLAGS))
        found = unknown or [mode for flag, mode in _FLAGS.items() if flag in flags] or "mean"
    names = found if isinstance(found, list) else [found]
    known = bool(names) and all(isinstance(name, str) and name in _MODES for name in names)
    _offer(known, path, f"the pooling {printable(found)} is not offered, only {', '.join(POOLINGS)}")
    return tuple(_MODES[name] for name in names), bool(stored.get("include_prompt", True))


def _read_length(folder: Folder) -> tuple[int | None, bool]:
    path = folder.path(LENGTH_FILE)
    stored: Mapping[str, Any] = read_json(path) if folder.has(LENGTH_FILE) else {}
    length, lower_case = stored.get("max_seq_length"), stored.get("do_lower_case", False)
    _require(isinstance(lower_case, bool), path, "do_lower_case: true or false", lower_case)
    _require(length is None or _is_whole(length, 3), path, "max_seq_length: a number above 2", length)
    return length, lower_case


def _read_settings(folder: Folder) -> dict[str, Any]:
    path = folder.path(PROMPTS_FILE)
    stored: Mapping[str, Any] = read_json(path) if folder.has(PROMPTS_FILE) else {}
    prompts, default = stored.get("prompts") or {}, stored.get("default_prompt_name")
    similarity, kept = stored.get("similarity_fn_name"), stored.get("truncate_dim")
    texts = isinstance(prompts, dict) and all(isinstance(text, str | None) for text in prompts.values())
    _require(texts, path, "prompts: texts by name", prompts)
    _require(default is None or default in prompts, path, f"default_prompt_name: one of {list(prompts)}", repr(default))
    _require(kept is None or _is_whole(kept, 1), path, "truncate_dim: a number above 0", kept)
    offered = similarity is None or (isinstance(similarity, str) and similarity in SIMILARITIES)
    _offer(
        offered, path, f"similarity_fn_name: only {', '.join(SIMILARITIES)} are offered, found {printable(similarity)}"
    )
    return {
        "prompts": {name: text or "" for name, text in prompts.items()},
        "default_prompt": default,
        "similarity": similarity,
        "truncate_dim": kept,
    }


def _names_a_module(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("type"), str) and isinstance(entry.get("path"), str)


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _require(right: bool, path: Path, expected: str, found: object) -> None:
    """Raises CheckpointError, naming the file, unless it is right."""
    if not right:
        key, colon, what = expected.rpartition(": ")
        raise CheckpointError(f"{printable(path)}: {key}{colon}expected {printable(what)}, found {printable(found)}")


def _offer(known: bool, path: Path, otherwise: str) -> None:
    """Raises NotSupportedError, naming the file, unless what it asks for is known."""
    if not known:
        raise NotSupportedError(f"{printable(path)}: {otherwise}")


def _shown(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{printable(key, 40)} {shape}" for key, shape in list(shapes.items())[:6]) or "no tensors"
