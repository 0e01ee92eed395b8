"""config.json <-> config dataclass: every key is handled, ignored for a reason, or must hold a stated value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from minitrans.attention.specs import VariantSpec, check_spec, names_code, stored_spec
from minitrans.errors import CheckpointError
from minitrans.families import FAMILIES
from minitrans.files import printable, read_json
from minitrans.models.config_fields import IGNORED, LACKING, LARGEST, MUST_EQUAL, REFERENCE_DEFAULTS, REQUIRED
from weights_convert.checkpoint import CONFIG
from weights_convert.journal import Folder, saving
from weights_convert.plan import DTYPES
from weights_convert.report import dtype_name

if TYPE_CHECKING:
    from minitrans.models.config import EncoderConfig


@dataclass(frozen=True)
class StoredConfig:
    """What a config.json says: the model, the dtype its writer had (None if it is silent), which keys were ignored and why."""

    config: EncoderConfig
    dtype: torch.dtype | None
    architectures: tuple[str, ...] = ()
    ignored: dict[str, str] = field(default_factory=dict)


def read_stored_config(
    folder: Folder, config_class: type[EncoderConfig], attention: VariantSpec | None = None
) -> StoredConfig:
    """The config.json of a folder, which must be of this type; old files name none. See `interpret_config`."""
    path = folder.path(CONFIG)
    return interpret_config(read_json(path), path, config_class, attention)


def interpret_config(
    stored: Mapping[str, Any], path: Path, config_class: type[EncoderConfig], attention: VariantSpec | None = None
) -> StoredConfig:
    """The meaning of the keys of a config.json.

    Args:
        stored: the keys and their values.
        path: for the messages.
        config_class: of the family.
        attention: what the user asked for in its place: a file cannot make us import a class by naming it.

    Raises:
        CheckpointError: for what is not understood, naming file, key and value.
    """
    _require_model_type(stored, path, config_class)
    if attention is not None:
        check_spec(attention)  # here, or the file would be blamed
        stored = {**stored, "attention": attention}
    elif names_code(stored.get("attention")):
        _fail(
            path,
            "attention",
            "a name that minitrans knows (code is run only if you pass attention= yourself)",
            stored["attention"],
        )
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
    try:
        config = config_class(**values)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{printable(path)}: {printable(error, 300)}") from None
    return StoredConfig(config, _stored_dtype(stored, path), _architectures(stored, path), ignored)


def _fail(path: Path, key: str, expected: str, found: object) -> NoReturn:
    raise CheckpointError(f"{printable(path)}: {printable(key)}: expected {expected}, found {printable(found)}")


def model_type_of(stored: Mapping[str, Any], path: Path) -> str:
    """The family that a config.json names. Raises CheckpointError where that is none of ours."""
    model_type = stored.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        _fail(path, "model_type", f"one of {', '.join(FAMILIES)}", model_type)
    return model_type


def _require_model_type(stored: Mapping[str, Any], path: Path, config_class: type[EncoderConfig]) -> None:
    wanted = config_class.model_type
    if stored.get("model_type") is not None and model_type_of(stored, path) != wanted:
        _fail(
            path, "model_type", f"{wanted} for this class (the Auto classes choose the right one)", stored["model_type"]
        )


def _stored_dtype(stored: Mapping[str, Any], path: Path) -> torch.dtype | None:
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


def _architectures(stored: Mapping[str, Any], path: Path) -> tuple[str, ...]:
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


def config_json(
    config: EncoderConfig, architectures: Sequence[str], dtype: torch.dtype | None = None
) -> dict[str, Any]:
    """The content of config.json: what the reference needs to open the model, and `attention` only where it is not full."""
    values = {"model_type": config.model_type, "architectures": list(architectures), **config.to_dict()}
    silent: dict[str, Any] = {
        "attention": "full",
        "pruned_heads": {},
        "position_embedding_type": "absolute",
        "problem_type": None,
        "output_attentions": False,
        "output_hidden_states": False,
    }
    values = {key: value for key, value in values.items() if key not in silent or value != silent[key]}
    del values["num_labels"]  # the reference counts id2label
    if config.id2label == {0: "LABEL_0", 1: "LABEL_1"} and config.label2id == {"LABEL_0": 0, "LABEL_1": 1}:
        del values["id2label"], values["label2id"]
    if dtype is not None:
        values["dtype"] = dtype_name(dtype)
    if "attention" in values:
        values["attention"] = stored_spec(config.attention)
    return {key: _plain(key, value) for key, value in values.items()}


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(key, item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(key, item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"{key}: expected plain values that config.json can hold, got {type(value).__name__}")


def write_config(
    config: EncoderConfig, folder: str | Path, architectures: Sequence[str], dtype: torch.dtype | None = None
) -> None:
    """Writes config.json into `folder`, atomically. Raises ValueError for a value that JSON cannot hold."""
    import json

    content = config_json(config, architectures, dtype)
    with saving(Path(folder)) as save:
        save.stage(CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
