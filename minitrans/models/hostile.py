"""What the config.json of a stranger may hold: checks that only such a file needs. No reading order passes here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from minitrans.attention.specs import check_spec, names_code
from minitrans.errors import CheckpointError
from minitrans.families import FAMILIES
from minitrans.files import printable
from minitrans.models.config_fields import IGNORED, LACKING, LARGEST, MUST_EQUAL, REFERENCE_DEFAULTS, REQUIRED
from weights_convert.checkpoint import CONFIG
from weights_convert.plan import DTYPES

if TYPE_CHECKING:
    from minitrans.attention.specs import VariantSpec
    from minitrans.models.config import EncoderConfig
    from weights_convert.checkpoint import Checkpoint
    from weights_convert.journal import Folder

SMALL_MODEL = 64  # layers that may be made before their tensors are looked for, so that each missing one is named


def known_values(
    stored: Mapping[str, Any], path: Path, config_class: type[EncoderConfig], attention: VariantSpec | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The fields of the class that a config.json gives, and the keys that are ignored, with the reason.

    A file cannot make us import a class by naming it: only the user can, by `attention`, which stands in its place.

    Raises:
        CheckpointError: for what is not understood, or larger than any model, naming file, key and value.
    """
    check_model_type(stored, path, config_class)
    if attention is not None:
        check_spec(attention)  # here, or the file would be blamed
        stored = {**stored, "attention": attention}
    elif names_code(stored.get("attention")):
        expected = "a name that minitrans knows (code is run only if you pass attention= yourself)"
        _fail(path, "attention", expected, stored["attention"])
    known = {item.name for item in dataclasses.fields(config_class)}
    values: dict[str, Any] = {key: value for key, value in REFERENCE_DEFAULTS.items() if key in known}
    ignored: dict[str, str] = {}
    for key, value in stored.items():
        if key in known:
            values[key] = value
        elif key in MUST_EQUAL or key in LACKING:
            accepted, why = MUST_EQUAL.get(key) or LACKING[key]
            if not any(value is option or (value == option and type(value) is type(option)) for option in accepted):
                _fail(path, key, f"{accepted[0]!r}: {why}", value)
        elif key in IGNORED:
            ignored[key] = IGNORED[key]
        elif key not in ("model_type", "dtype", "torch_dtype"):
            _fail(path, key, f"a key that {config_class.__name__} knows", value)
    own_names = config_class.own_names
    for key in (own_names.get(name, name) for name in REQUIRED):
        if key in known and key not in values:
            _fail(path, key, "a value", "none")
    for name, largest in LARGEST.items():
        key = own_names.get(name, name)
        value = values.get(key)
        named = key == "num_labels" and values.get("id2label") is not None
        if isinstance(value, int) and value > largest and not named:
            _fail(path, key, f"at most {largest}", value)
    _read_maps(values, path)
    return values, ignored


def model_type_of(stored: Mapping[str, Any], path: Path) -> str:
    """The family that a config.json names. Raises CheckpointError where that is none of ours."""
    model_type = stored.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        _fail(path, "model_type", f"one of {', '.join(FAMILIES)}", model_type)
    return model_type


def check_model_type(stored: Mapping[str, Any], path: Path, config_class: type[EncoderConfig]) -> None:
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
        name = value.removeprefix("torch.") if isinstance(value, str) else None
        if name not in DTYPES:
            _fail(path, key, f"one of {', '.join(DTYPES)}", value)
        found.append(DTYPES[name])
    return found[0] if found else None


def architectures_of(stored: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """The classes that wrote the file."""
    names = stored.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        _fail(path, "architectures", "a list of class names", names)
    return tuple(names)


def _read_maps(values: dict[str, Any], path: Path) -> None:
    """JSON has only text as keys: makes the ids of `id2label` and `pruned_heads` numbers again, and counts the labels."""
    id2label, label2id, pruned = (values.get(key) for key in ("id2label", "label2id", "pruned_heads"))
    if id2label is not None:
        names = _numbered(path, "id2label", id2label)
        if sorted(names) != list(range(len(names))) or not all(
            isinstance(name, str | int | float) for name in names.values()
        ):
            _fail(path, "id2label", "a name for each id from 0 up", id2label)
        if values.get("num_labels", len(names)) != len(names):
            _fail(path, "num_labels", f"{len(names)}, as many as id2label names", values["num_labels"])
        values.update(id2label={number: str(name) for number, name in names.items()}, num_labels=len(names))
    if label2id is not None:
        if not isinstance(label2id, dict) or not all(type(number) is int for number in label2id.values()):
            _fail(path, "label2id", "an id for each label", label2id)
        values["label2id"] = dict(label2id)
    if pruned is None:
        values.pop("pruned_heads", None)
    else:
        layers = _numbered(path, "pruned_heads", pruned)
        if not all(isinstance(heads, list) and all(type(head) is int for head in heads) for heads in layers.values()):
            _fail(path, "pruned_heads", "lists of heads by layer", pruned)
        values["pruned_heads"] = {layer: tuple(heads) for layer, heads in layers.items()}


def _numbered(path: Path, key: str, value: object) -> dict[int, Any]:
    if not isinstance(value, dict) or not all(name.isascii() and name.isdigit() and len(name) < 10 for name in value):
        _fail(path, key, "an object whose keys are numbers", value)
    return {int(name): item for name, item in value.items()}


def check_room(config: Any, checkpoint: Checkpoint, folder: Folder) -> None:
    """Raises CheckpointError where the configuration asks for more layers than the files can fill: no model is built first."""
    held = max(len(checkpoint.tensors), SMALL_MODEL)
    if config.num_hidden_layers > held:
        raise CheckpointError(
            f"{printable(folder.path(CONFIG))}: num_hidden_layers: expected no more than the {len(checkpoint.tensors)} "
            f"tensors in {printable(checkpoint.source)}, found {config.num_hidden_layers}"
        )


def _fail(path: Path, key: str, expected: str, found: object) -> NoReturn:
    raise CheckpointError(f"{printable(path)}: {printable(key)}: expected {expected}, found {printable(found)}")
