"""config.json <-> configuration: a key is a field, or changes no number and is kept, or the file is refused."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

import torch

from minitrans.attention.specs import VariantSpec, stored_spec
from minitrans.errors import CheckpointError
from minitrans.files import printable, read_json
from minitrans.hub import HubOptions, local_folder
from minitrans.models.hostile import architectures_of, check_is_model, known_values, stored_dtype
from minitrans.models.words import LOADING
from minitrans.words import read_words
from weights_convert.checkpoint import BESIDE, CONFIG
from weights_convert.journal import Folder, saving
from weights_convert.report import dtype_name

logger = logging.getLogger("minitrans")


@dataclass(frozen=True)
class StoredConfig:
    """What a config.json says.

    Attributes:
        config: the model.
        dtype: of its writer's parameters; None if it is silent.
        architectures: the classes that wrote it.
        ignored: keys that nothing reads, and why.
        notes: what a user should know of it, a line each.
    """

    config: Any
    dtype: torch.dtype | None
    architectures: tuple[str, ...] = ()
    ignored: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_stored_config(
    folder: Folder, config_class: Any, attention: VariantSpec | None = None, *, strict: bool = False
) -> StoredConfig:
    """The config.json of a folder, which must be of this type; old files name none. See `interpret_config`."""
    check_is_model(folder)
    path = folder.path(CONFIG)
    return interpret_config(read_json(path), path, config_class, attention, strict=strict)


def interpret_config(
    stored: Mapping[str, Any],
    path: Path,
    config_class: Any,
    attention: VariantSpec | None = None,
    *,
    strict: bool = False,
) -> StoredConfig:
    """The meaning of the keys of a config.json.

    Args:
        stored: the keys and their values.
        path: for the messages.
        config_class: of the family.
        attention: what the user asked for in its place: a file cannot make us import a class by naming it.
        strict: refuse keys that nothing reads.

    Raises:
        CheckpointError: for what is not understood, naming file, key and value.
    """
    values, ignored, notes = known_values(stored, path, config_class, attention, strict=strict)
    dtype, architectures = stored_dtype(stored, path), architectures_of(stored, path)
    try:
        config = config_class(**values, dtype=dtype, architectures=list(architectures) or None)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{printable(path)}: {printable(error, 300)}") from None
    return StoredConfig(config, dtype, architectures, ignored, notes)


def load_config(
    name_or_path: str | Path,
    choose: Callable[[Mapping[str, Any], Path], Any],
    *,
    strict_config: bool = False,
    return_unused_kwargs: bool = False,
    **options: Any,
) -> Any:
    """The configuration of a checkpoint, or of a JSON file.

    Args:
        name_or_path: a folder, a file, or a name on the hub.
        choose: the class, from the content and the path of the file.
        strict_config: refuse keys that nothing reads.
        return_unused_kwargs: return two things: the configuration, and those of `options` that are no fields of it.
        options: those of `words.LOADING` that say where to find the file, and fields of the configuration with the values that
            they shall have.

    Raises:
        CheckpointError: naming file, key, value and what is accepted. TypeError, ValueError: for wrong options.
    """
    known, options = read_words(LOADING, options, "from_pretrained", {})
    where: Any = {name: known.pop(name) for name in HubOptions.__annotations__ if name in known}
    options |= {name: value for name, value in known.items() if (name, value) != ("dtype", "auto")}
    for name in ("trust_remote_code", "backend"):  # no code is run, and no number depends on the backend
        options.pop(name, None)
    path = Path(name_or_path)
    if not os.path.isfile(path):
        folder = Folder(local_folder(name_or_path, patterns=BESIDE, **where))
        check_is_model(folder)
        path = folder.path(CONFIG)
    stored = read_json(path)
    found = interpret_config(stored, path, choose(stored, path), options.get("attention"), strict=strict_config)
    for line in found.notes:
        logger.warning("%s", line)
    unused = {
        name: options.pop(name) for name in list(options) if return_unused_kwargs and not hasattr(found.config, name)
    }
    config = found.config.updated(**{"name_or_path": str(name_or_path), **options})
    return (config, unused) if return_unused_kwargs else config


# What a reader takes for granted.
_SILENT: dict[str, Any] = {
    "attention": "full",
    "pruned_heads": {},
    "position_embedding_type": "absolute",
    "problem_type": None,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160_000.0,
    "local_rope_theta": 10_000.0,
    "rotary_emb_base": None,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "summary_type": "last",
    "summary_use_proj": False,
    "summary_activation": None,
    "summary_first_dropout": 0.0,
    "attention_head_size": None,
    "cls_dropout": None,
    "conv_act": "tanh",
    "share_encoder_decoder_embeddings": True,
    "conv_groups": 1,
    "conv_kernel_size": 0,
    "norm_rel_ebd": "none",
    "position_buckets": -1,
    "summary_last_dropout": 0.0,
    "head_dim": None,
    "rope_parameters": None,
    "rope_scaling": None,
    "rope_theta": None,
    "layer_types": None,
    "classifier_dropout": None,
    "architectures": None,
    "dtype": None,
}


def telling(config: Any) -> dict[str, Any]:
    """`to_dict` without what a reader takes for granted, and without what is only true here."""
    defaults = {**{item.name: item.default for item in dataclasses.fields(config)}, **config.reference_defaults}
    values = {
        key: value
        for key, value in config.to_dict().items()
        if key not in _SILENT or key not in defaults or value != _SILENT[key] or defaults[key] not in (MISSING, value)
    }
    values = {key: value for key, value in values.items() if not key.startswith("_")}
    del values["num_labels"]  # the reference counts id2label
    plain = {number: f"LABEL_{number}" for number in range(defaults["num_labels"])}
    if config.id2label == plain and config.label2id == {name: number for number, name in plain.items()}:
        del values["id2label"], values["label2id"]
    return values


def config_json(config: Any, architectures: Sequence[str], dtype: torch.dtype | None = None) -> dict[str, Any]:
    """The content of config.json: what the reference needs to open the model, and `attention` only where it is not full.

    Raises:
        ValueError: for a value that JSON cannot hold.
    """
    written = {"architectures": list(architectures), "dtype": None if dtype is None else dtype_name(dtype)}
    values = {**telling(config), **written}
    if "attention" in values:
        values["attention"] = stored_spec(config.attention)
    return {key: _plain(key, value) for key, value in values.items() if key != "dtype" or value is not None}


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(key, item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(key, item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"{key}: expected plain values that config.json can hold, got {type(value).__name__}")


def write_config(
    config: Any, folder: str | Path, architectures: Sequence[str], dtype: torch.dtype | None = None
) -> None:
    """Writes config.json into `folder`, atomically. Raises ValueError for a value that JSON cannot hold."""
    content = config_json(config, architectures, dtype)
    with saving(Path(folder)) as save:
        save.stage(CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
