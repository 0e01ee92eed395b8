"""A configuration as scripts hold one: read by BERT's names, assigned, copied, compared, and written to a file.

What says how a model is used can be assigned at any time, and is checked at once; what its modules were built from can be
assigned until a model has the configuration, and from then on only by that model (`rebuild`).
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch

from minitrans.errors import nearest
from minitrans.models.config_fields import WELL_KNOWN, refused_value
from minitrans.models.config_file import interpret_config, load_config, telling, write_config
from weights_convert.report import dtype_name

# Names that scripts use for the same thing, in every family.
_SAME = {"torch_dtype": "dtype", "_name_or_path": "name_or_path", "use_return_dict": "return_dict"}
# How a model that exists takes another value of what its modules were built from.
_INSTEAD = {
    "vocab_size": "call model.resize_token_embeddings({value!r})",
    "pruned_heads": "call model.prune_heads(...)",
    "attention": "call model.set_attention({value!r})",
    "num_labels": "the head has a row a label: load again, with from_pretrained(..., num_labels={value!r}, "
    "ignore_mismatched_sizes=True), or name as many labels as it has",
}
_BUILD_AGAIN = (
    "load again, with from_pretrained(..., {name}={value!r}), or make a new model of config.updated({name}={value!r})"
)


class _ByAnyName(type):
    """How a configuration is made: by BERT's names too, and of all that `to_dict` gave or a config.json holds."""

    def __call__(cls, *, model_type: str | None = None, **given: Any) -> Any:
        kind: Any = cls
        if model_type is not None:  # a whole one, with settings that nothing reads
            return kind.from_dict({"model_type": model_type, **given})
        by_field = {kind.own_names.get(name, _SAME.get(name, name)): value for name, value in given.items()}
        own = {item.name: by_field.pop(item.name) for item in fields(kind) if item.name in by_field}
        made = super().__call__(**own)
        return made.updated(**by_field) if by_field else made

    @property
    def __signature__(cls) -> inspect.Signature:
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        return signature.replace(parameters=[*signature.parameters.values()][1:])


@dataclass(kw_only=True)
class ConfigObject(metaclass=_ByAnyName):
    """What any configuration can do; subclasses add the fields that say what a model is, and check them in `__post_init__`.

    Attributes:
        extra: settings that nothing here reads: kept, readable as attributes, and written back.
    """

    model_type: ClassVar[str]
    own_names: ClassVar[Mapping[str, str]] = {}  # BERT's name of a field -> this family's, where they differ
    aliases: ClassVar[Mapping[str, str]] = {}  # other names of fields that a file may use, as the reference's files do
    instead: ClassVar[Mapping[str, str]] = {}  # of a field that a family lacks -> the one that stands for it
    lacking: ClassVar[Mapping[str, Any]] = {}  # of a field that a family lacks -> its value
    # what the reference assumes where a file is silent and the class would assume something else (R3)
    reference_defaults: ClassVar[Mapping[str, object]] = {"layer_norm_eps": 1e-12, "type_vocab_size": 2}
    # as CHANGES_NUMBERS of `config_fields.py`, of keys that only files of this family have
    changes_numbers: ClassVar[Mapping[str, tuple[tuple[object, ...], str]]] = {}
    steering: ClassVar[frozenset[str]] = frozenset({"return_dict", "architectures", "dtype", "name_or_path", "extra"})

    return_dict: bool = True  # outputs are objects with names, not tuples, unless the call says otherwise
    architectures: list[str] | None = field(default=None, compare=False)  # the classes that wrote the checkpoint
    dtype: torch.dtype | None = field(default=None, compare=False)  # of the writer's parameters
    name_or_path: str = field(default="", compare=False)  # where it was read
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.__dict__["_built"] = frozenset()  # from here on assignments are checked

    # -- reading and assigning ---------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """By another family's name, what stands for a field that this one lacks, or a setting that nothing reads."""
        own = self.own_names.get(name) or self.instead.get(name) or _SAME.get(name)
        if own is not None:
            return getattr(self, own)
        for table in (self.lacking, self.__dict__.get("extra", {}), _ABSENT):
            if name in table and not name.startswith("__"):
                return table[name]
        raise AttributeError(f"{type(self).__name__} has no field {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Raises ValueError, TypeError: for a wrong value, or where the modules of a model were built from another one."""
        if "_built" in self.__dict__:
            self.update({name: value})
        else:
            super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        """A copy belongs to no model."""
        return {**self.__dict__, "_built": frozenset()}

    def update(self, changes: Mapping[str, Any]) -> None:
        """Assigns all of them or none; a name that is no field becomes a setting that nothing reads.

        Raises:
            TypeError, ValueError: as the constructor does; ValueError: for what the modules of a model were built from.
        """
        values = self._by_field(changes)
        for name in values:  # first those that were named, then what follows from them
            if name in self._built and values[name] != getattr(self, name):
                how = _INSTEAD.get(name, _BUILD_AGAIN).format(name=name, value=values[name])
                raise ValueError(f"{name}: the model was built with {getattr(self, name)!r}; {how}")
        self._assign(values)

    def rebuild(self, **changes: Any) -> None:
        """`update` for the model itself, after (or, as a check, on a copy: before) it changed its modules."""
        self._assign(self._by_field(changes))

    def updated(self, **changes: Any) -> Self:
        """A copy with these fields changed, which belongs to no model; other num_labels drop the old names of the labels.

        Raises:
            TypeError, ValueError: as the constructor does.
        """
        for name in changes:  # a typing error would change nothing, in silence
            if name not in WELL_KNOWN and not hasattr(self, name):
                near = nearest(name, [item.name for item in fields(self)])
                raise TypeError(f"{type(self).__name__} has no field {name!r}; the nearest is {near}")
        changed = copy.copy(self)
        changed.rebuild(**changes)
        return changed

    def copy(self) -> Self:
        """One that belongs to no model."""
        return self.updated()

    def get(self, name: str, default: Any = None) -> Any:
        """The value of this name, or `default` where there is none."""
        return getattr(self, name, default)

    @property
    def is_built(self) -> bool:
        """Whether a model has it."""
        return bool(self._built)

    def build_in(self, free: frozenset[str] = frozenset()) -> None:
        """A model has it from now on: besides the `steering` fields only those of `free` can be assigned."""
        self.__dict__["_built"] = frozenset(item.name for item in fields(self)) - self.steering - free

    def _by_field(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Values by the names of fields; what is no field goes into `extra`."""
        known = {item.name for item in fields(self)}
        values: dict[str, Any] = {}
        extra = dict(changes.get("extra", self.extra))
        for name, value in changes.items():
            own = name if name in self.extra else self.own_names.get(name, _SAME.get(name, name))
            if own in known:
                values[own] = value
            elif name in self.extra or not hasattr(
                type(self), name
            ):  # a file's key may be an attribute that is no field
                if (expected := refused_value(self, name, value)) is not None:
                    raise ValueError(f"{name} must be {expected}; got {value!r}")
                extra[name] = value
            elif value != getattr(self, name):
                raise ValueError(f"{name} is fixed by the class {type(self).__name__}: it is no setting, got {value!r}")
        if extra != self.extra:
            values["extra"] = extra
        return values

    def _assign(self, values: Mapping[str, Any]) -> None:
        before = dict(self.__dict__)
        del self.__dict__["_built"]
        self.__dict__.update(values)
        try:
            self.__post_init__()
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        self.__dict__["_built"] = before["_built"]

    # -- files and plain values --------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Self:
        """The config.json of a checkpoint of this family; the options are those of `AutoConfig.from_pretrained`."""
        return cast("Self", load_config(pretrained_model_name_or_path, lambda stored, path: cls, **options))

    @classmethod
    def from_json_file(cls, path: str | Path) -> Self:
        """The content of a file such as config.json."""
        return cast("Self", load_config(path, lambda stored, path: cls))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], **changes: Any) -> Self:
        """What `to_dict` gave, or a config.json that has been read, with `changes` of its fields.

        Raises:
            CheckpointError: for what is not understood. TypeError, ValueError: for wrong changes.
        """
        config: Self = interpret_config(values, Path(f"{cls.__name__}.from_dict"), cls, changes.get("attention")).config
        return config.updated(**changes)

    def fields(self) -> dict[str, Any]:
        """Every field and its value, in reading order."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def to_dict(self) -> dict[str, Any]:
        """The model type, every field and every setting that nothing reads, as config.json names them."""
        values = {"model_type": self.model_type, **self.fields()}
        extra, name = values.pop("extra"), values.pop("name_or_path")
        dtype = None if self.dtype is None else dtype_name(self.dtype)
        return {**values, **extra, "dtype": dtype, "_name_or_path": name}

    def get_text_config(self, decoder: bool = False, encoder: bool = False) -> Self:
        """Itself: libraries ask so for the part of a configuration that is about text, encoder or decoder."""
        return self

    def to_diff_dict(self) -> dict[str, Any]:
        """What config.json says: `to_dict` without what a reader takes for granted."""
        return telling(self)

    def to_json_string(self, use_diff: bool = True) -> str:
        """JSON of `to_diff_dict`, or of `to_dict`; what JSON cannot hold (a variant of one's own) stands there by its name."""
        values = self.to_diff_dict() if use_diff else self.to_dict()
        return json.dumps(values, indent=2, sort_keys=True, default=str) + "\n"

    def to_json_file(self, path: str | Path, use_diff: bool = True) -> None:
        """Writes that text."""
        Path(path).write_text(self.to_json_string(use_diff), encoding="utf-8")

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json into the folder, which is made if need be."""
        write_config(self, folder, self.architectures or (), self.dtype)


# What scripts ask of any configuration, whether or not it was set.
_ABSENT = {"is_encoder_decoder": False, "chunk_size_feed_forward": 0}
