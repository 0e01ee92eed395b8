"""config.json <-> config dataclass: every key is handled, ignored for a reason, or must hold a stated value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from minitrans.attention.specs import VariantSpec, stored_spec
from minitrans.errors import CheckpointError
from minitrans.files import printable, read_json
from minitrans.models.hostile import architectures_of, known_values, stored_dtype
from weights_convert.checkpoint import CONFIG
from weights_convert.journal import Folder, saving
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
    values, ignored = known_values(stored, path, config_class, attention)
    try:
        config = config_class(**values)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{printable(path)}: {printable(error, 300)}") from None
    return StoredConfig(config, stored_dtype(stored, path), architectures_of(stored, path), ignored)


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
