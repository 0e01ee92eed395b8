"""What the config.json of a stranger may hold: checks that only such a file needs. No reading order passes here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from minitrans.attention.specs import check_spec, names_code
from minitrans.errors import CheckpointError
from minitrans.families import FAMILIES
from minitrans.files import printable, read_json
from minitrans.models.config_fields import (
    CHANGES_NUMBERS,
    LARGEST,
    MOST_LABELS,
    NOT_KEPT,
    NULL_IS_SILENCE,
    PRIVATE,
    REQUIRED,
    WELL_KNOWN,
    refused_value,
)  # fmt: skip
from weights_convert.checkpoint import ADAPTER, CONFIG
from weights_convert.plan import DTYPES

if TYPE_CHECKING:
    from minitrans.attention.specs import VariantSpec
    from weights_convert.checkpoint import Checkpoint
    from weights_convert.journal import Folder
    from weights_convert.state_dict import StateDict

SMALL_MODEL = 64  # layers that may be made before their tensors are looked for, so that each missing one is named


def known_values(
    stored: Mapping[str, Any],
    path: Path,
    config_class: Any,
    attention: VariantSpec | None,
    *,
    strict: bool,
) -> tuple[dict[str, Any], dict[str, str], tuple[str, ...]]:
    """The values that a config.json gives to the class, the keys that are read by nothing with the reason, and remarks.

    A file cannot make us import a class by naming it: only the user can, by `attention`, which stands in its place.

    Raises:
        CheckpointError: for what is not understood, or larger than any model, naming file, key and value; where `strict`,
            for keys that nothing reads too.
    """
    check_model_type(stored, path, config_class)
    if attention is not None:
        check_spec(attention)  # here, or the file would be blamed
        stored = {**stored, "attention": attention}
    elif names_code(stored.get("attention")):
        expected = "a name that minitrans knows (code is run only if you pass attention= yourself)"
        _fail(path, "attention", expected, stored["attention"])
    known = {item.name for item in dataclasses.fields(config_class)} - {"extra", "name_or_path", *_HANDLED}
    values: dict[str, Any] = {key: value for key, value in config_class.reference_defaults.items() if key in known}
    key_of = {own: name for name, own in config_class.own_names.items()}
    ignored: dict[str, str] = {}
    extra: dict[str, Any] = {}
    unknown: list[str] = []
    for key, value in stored.items():
        own = config_class.aliases.get(key, key)
        if own in known and own != key and stored.get(own, value) != value:
            _fail(
                path,
                key,
                f"the value of {own}, which means the same, {printable(stored[own], 60)!r} (leave one of them out)",
                value,
            )
        elif own in known:
            if value is not None or key_of.get(own, own) not in NULL_IS_SILENCE:
                values[own] = value
        elif key in _HANDLED:
            continue
        elif isinstance(value, bool) and value is getattr(config_class, key, None):
            ignored[key] = "true of every model of this family"
        elif (other := refused_value(config_class, key, value)) is not None:
            _fail(path, key, other, value)
        elif key in NOT_KEPT or (key.startswith("_") and not key.startswith("__")):
            ignored[key] = NOT_KEPT.get(key, PRIVATE)
        else:
            extra[key], ignored[key] = _setting(path, config_class, key, value), "read by nothing here; kept"
            if key not in WELL_KNOWN and key not in {*CHANGES_NUMBERS, *config_class.changes_numbers}:
                unknown.append(key)
    own_names = config_class.own_names
    optional = {item.name for item in dataclasses.fields(config_class) if item.default is None}
    for key in (own_names.get(name, name) for name in REQUIRED):
        if key in known - optional and key not in values:
            _fail(path, key, "a value (the file does not say how large the model is)", "none")
    for name, largest in LARGEST.items():
        key = own_names.get(name, name)
        value = values.get(key)
        if isinstance(value, int) and value > largest:
            _fail(path, key, f"at most {largest}", value)
    notes = _read_labels(values, path)
    _read_pruned(values, path)
    if unknown:
        shown = ", ".join(printable(key, 40) for key in unknown[:12]) + (", ..." if len(unknown) > 12 else "")
        if strict:
            _fail(path, "strict_config", "keys that are read; leave out strict_config=True to keep the others", shown)
        notes.append(f"nothing here reads {shown}: kept, and written back; strict_config=True refuses such keys")
    return {**values, "extra": extra}, ignored, tuple(f"{printable(path)}: {note}" for note in notes)


# Keys that are read by the functions below
_HANDLED = ("model_type", "dtype", "torch_dtype", "architectures")
_DEEPEST = 32  # levels of lists and objects that a setting may have


def _setting(path: Path, config_class: Any, key: str, value: Any) -> Any:
    """`value`, unless the key is one that no setting has, or nobody meant this to be read."""
    taken = getattr(config_class, key, None) if key.isidentifier() else None
    wrong = {
        "another name: this one is taken by the code": (
            key == "extra" or key.startswith("__") or callable(taken) or isinstance(taken, property)
        ),
        "a name of at most 100 printable characters": len(key) > 100 or not key.isprintable(),
        f"at most {_DEEPEST} levels of lists and objects": _is_deep(value),
    }
    for expected in (words for words, is_so in wrong.items() if is_so):
        _fail(path, key, f"{expected}; leave it out", type(value).__name__)
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [item for each in inner for item in each]
    return bool(level)


def check_is_model(folder: Folder, *, configured: bool = False) -> None:
    """Raises CheckpointError for an adapter of peft, and for a folder without a configuration where none is given."""
    if folder.has(ADAPTER):
        base = read_json(folder.path(ADAPTER)).get("base_model_name_or_path") or "a model that it does not name"
        raise CheckpointError(
            f"{printable(folder.root)}: expected a model, found a peft adapter for {printable(base)}: load that and wrap it "
            "(peft.PeftModel.from_pretrained(model, folder)), or merge the two once (merge_and_unload, then save_pretrained) and "
            "load what comes of it"
        )
    if configured:
        return
    try:
        os.lstat(folder.path(CONFIG))
    except FileNotFoundError:
        raise CheckpointError(
            f"{printable(folder.path(CONFIG))}: expected a file, found nothing; a tool that saves a state dict alone writes "
            "none: pass config=..., the model's configuration or the folder that has it"
        ) from None
    except OSError:
        pass  # whoever reads it says more


def model_type_of(stored: Mapping[str, Any], path: Path) -> str:
    """The family that a config.json names. Raises CheckpointError where that is none of ours."""
    model_type = stored.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        _fail(path, "model_type", f"one of {', '.join(FAMILIES)}", model_type)
    return model_type


def check_model_type(stored: Mapping[str, Any], path: Path, config_class: Any) -> None:
    """Raises CheckpointError for the file of another family; old files name none."""
    wanted = config_class.model_type
    if stored.get("model_type") is not None and model_type_of(stored, path) != wanted:
        _fail(
            path, "model_type", f"{wanted} for this class (the Auto classes choose the right one)", stored["model_type"]
        )


def stored_dtype(stored: Mapping[str, Any], path: Path) -> torch.dtype | None:
    """The dtype of the writer's model; newer files say `dtype`, older ones `torch_dtype` (B9)."""
    found = []
    for key in ("dtype", "torch_dtype"):
        value = stored.get(key)
        if value is None:
            continue
        name = str(value).removeprefix("torch.") if isinstance(value, str | torch.dtype) else None
        if name not in DTYPES:
            _fail(path, key, f"one of {', '.join(DTYPES)}", value)
        found.append(DTYPES[name])
    return found[0] if found else None


def architectures_of(stored: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """The classes that wrote the file."""
    names = stored.get("architectures") or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        _fail(path, "architectures", 'a list of class names, such as ["BertModel"]', names)
    return tuple(names)


def _read_labels(values: dict[str, Any], path: Path) -> list[str]:
    """Makes `id2label`, `label2id` and `num_labels` what they were meant to be; returns what is odd about them."""
    names = _by_number(path, "id2label", values.pop("id2label", None), "a name for each id")
    if not all(isinstance(name, str | int | float | None) for name in names.values()):
        _fail(path, "id2label", "a name for each id", [*names.values()])
    names = {number: f"LABEL_{number}" if name is None else str(name) for number, name in names.items()}
    if "num_labels" in values:
        values["num_labels"] = count = _whole(path, "num_labels", values["num_labels"])
        if len(names) > count or any(number >= count for number in names if len(names) < count):
            _fail(path, "num_labels", f"{len(names)}, as many as id2label names (or leave num_labels out)", count)
        if count > max(MOST_LABELS, len(names)):
            _fail(path, "num_labels", f"at most {MOST_LABELS}, or as many as id2label names", count)
        if names and len(names) < count:
            names = {number: names.get(number, f"LABEL_{number}") for number in range(count)}
    if names:
        values.update(id2label=names, num_labels=len(names))
    ids = values.pop("label2id", None)
    if ids is not None:
        if isinstance(ids, list) and all(isinstance(name, str) for name in ids):
            ids = {name: number for number, name in enumerate(ids)}
        if not isinstance(ids, dict) or not all(isinstance(name, str) for name in ids):
            _fail(path, "label2id", 'an id for each label, such as {"yes": 0}', ids)
        values["label2id"] = {
            name: _whole(path, "label2id", number) for name, number in ids.items() if number is not None
        }
    if names and sorted(names) != [*range(len(names))]:
        return [f"id2label names {', '.join(map(str, sorted(names)[:8]))}, the model has ids 0 to {len(names) - 1}"]
    return []


def _whole(path: Path, key: str, value: Any) -> int:
    """3, 3.0 or "3". Raises CheckpointError for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        return int(value)
    if not (isinstance(value, str) and _is_number(value)):
        _fail(path, key, "a whole number", value)
    return int(value)


def _read_pruned(values: dict[str, Any], path: Path) -> None:
    """JSON has only text as keys: makes the layers of `pruned_heads` numbers again."""
    layers = _by_number(path, "pruned_heads", values.pop("pruned_heads", None), "a list of heads by layer")
    if not all(
        isinstance(heads, list | tuple) and all(type(head) is int for head in heads) for heads in layers.values()
    ):
        _fail(path, "pruned_heads", 'lists of heads by layer, such as {"0": [1, 2]}', layers)
    values["pruned_heads"] = {layer: tuple(heads) for layer, heads in layers.items()}


def _by_number(path: Path, key: str, value: object, what: str) -> dict[int, Any]:
    """The items of an object whose keys are numbers, or of a list."""
    items = dict(enumerate(value)) if isinstance(value, list) else value or {}
    if not isinstance(items, Mapping) or not all(_is_number(name) for name in items):
        _fail(path, key, f'{what}: an object whose keys are numbers, from "0" up', value)
    return {int(name): item for name, item in items.items()}


def _is_number(name: object) -> bool:
    return type(name) is int or (isinstance(name, str) and name.isascii() and name.isdigit() and len(name) < 10)


def check_room(config: Any, checkpoint: Checkpoint | StateDict) -> None:
    """Raises CheckpointError where the configuration asks for more layers than the files can fill: no model is built first."""
    held = max(len(checkpoint.tensors), SMALL_MODEL)
    if config.num_hidden_layers > held:
        raise CheckpointError(
            f"{checkpoint.place}{CONFIG}: num_hidden_layers: expected no more than the {len(checkpoint.tensors)} "
            f"tensors in {printable(checkpoint.source)}, found {config.num_hidden_layers}"
        )


def _fail(path: Path, key: str, expected: str, found: object) -> NoReturn:
    raise CheckpointError(f"{printable(path)}: {printable(key)}: expected {expected}, found {printable(found)}")
