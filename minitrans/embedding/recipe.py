"""How a sentence-transformers folder makes a vector of a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minitrans.embedding.head import POOLINGS, Dense, read_dense
from minitrans.embedding.modules import PATTERNS, Module, read_modules
from minitrans.errors import CheckpointError, NotSupportedError
from minitrans.files import printable, read_json
from minitrans.hub import local_folder
from weights_convert.journal import Folder

PROMPTS_FILE = "config_sentence_transformers.json"
LENGTH_FILE = "sentence_bert_config.json"
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


@dataclass(frozen=True)
class Recipe:
    """What happens to a text besides the body.

    Attributes:
        pooling: names out of `POOLINGS`; the results of several are joined.
        max_length: longer texts are cut to this many tokens; None = the tokenizer's and the model's own limit.
        lower_case: lower-case the texts first.
        head: what follows the pooling: "Dense" layers, by their folders, and "Normalize".
        prompts: by name, what may be put before every text.
        default_prompt: the name of the one that is, unless the caller says otherwise.
        prompt_counts: whether the tokens of a prompt take part in the pooling.
        body: the folder of the body inside the checkpoint's.
    """

    pooling: tuple[str, ...] = ("mean",)
    max_length: int | None = None
    lower_case: bool = False
    head: tuple[Module, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    prompt_counts: bool = True
    body: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for a pooling that there is not."""
        check_pooling(self.pooling)


def check_pooling(names: tuple[str, ...]) -> None:
    """Raises ValueError unless all of these, and at least one, are in `POOLINGS`."""
    for name in names or ("",):
        if name not in POOLINGS:
            raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}, got {printable(name)!r}")


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
    if modules and (kinds[:1] != ["Transformer"] or kinds.count("Transformer") > 1 or kinds.count("Pooling") > 1):
        raise NotSupportedError(
            f"{printable(root)}: modules.json: only one Transformer, then one Pooling is offered, found {', '.join(kinds)}"
        )
    body = modules[0].path if modules else ""
    head: tuple[Module, ...] = ()
    pooling: tuple[str, ...] = ("mean",)
    prompt_counts = True
    if "Pooling" in kinds:
        at = kinds.index("Pooling")
        pooling, prompt_counts = _read_pooling(folder.below(modules[at].path).path("config.json"))
        head = tuple(modules[at + 1 :])
    if len(head) != max(0, len(modules) - 2):
        raise NotSupportedError(
            f"{printable(root)}: modules.json: a Pooling must follow the Transformer at once, found {', '.join(kinds)}"
        )
    length, lower_case = _read_length(folder.below(body))
    prompts, default = _read_prompts(folder)
    return Recipe(pooling, length, lower_case, head, prompts, default, prompt_counts, body)


def body_place(name_or_path: str | Path, recipe: Recipe, **options: Any) -> str | Path:
    """What to load the body and its tokenizer from: old folders keep it in one of its own.

    Raises:
        CheckpointError: where there is no such folder.
    """
    if not recipe.body:
        return name_or_path
    root = local_folder(name_or_path, patterns=(f"{recipe.body}/*",), **options)
    if not (root / recipe.body).is_dir():
        raise CheckpointError(f"{printable(root)}/modules.json: expected a folder {printable(recipe.body)}, found none")
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


def _read_pooling(path: Path) -> tuple[tuple[str, ...], bool]:
    stored = read_json(path)
    found: object = stored.get("pooling_mode")
    if found is None:
        found = [mode for flag, mode in _FLAGS.items() if stored.get(flag) is True] or "mean"
        unknown = {key for key, value in stored.items() if key.startswith("pooling_mode_") and value is True}
        found = sorted(unknown - set(_FLAGS)) or found
    names = [
        _MODES.get(name) if isinstance(name, str) else None for name in (found if isinstance(found, list) else [found])
    ]
    pooling = tuple(name for name in names if name is not None)
    if not names or len(pooling) != len(names):
        raise NotSupportedError(
            f"{printable(path)}: the pooling {printable(found)} is not offered, only {', '.join(POOLINGS)}"
        )
    return pooling, bool(stored.get("include_prompt", True))


def _read_length(folder: Folder) -> tuple[int | None, bool]:
    path = folder.path(LENGTH_FILE)
    stored: Mapping[str, Any] = read_json(path) if folder.has(LENGTH_FILE) else {}
    length, lower_case = stored.get("max_seq_length"), stored.get("do_lower_case", False)
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 3):
        raise CheckpointError(
            f"{printable(path)}: max_seq_length: expected a number above 2, found {printable(length)}"
        )
    if not isinstance(lower_case, bool):
        raise CheckpointError(
            f"{printable(path)}: do_lower_case: expected true or false, found {printable(lower_case)}"
        )
    return length, lower_case


def _read_prompts(folder: Folder) -> tuple[dict[str, str], str | None]:
    path = folder.path(PROMPTS_FILE)
    stored: Mapping[str, Any] = read_json(path) if folder.has(PROMPTS_FILE) else {}
    prompts, default = stored.get("prompts") or {}, stored.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise CheckpointError(f"{printable(path)}: prompts: expected texts by name, found {printable(prompts)}")
    if default is not None and default not in prompts:
        raise CheckpointError(
            f"{printable(path)}: default_prompt_name: expected one of {printable(list(prompts))}, "
            f"found {printable(default)!r}"
        )
    return {name: text or "" for name, text in prompts.items()}, default
