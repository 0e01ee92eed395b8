"""Which class a checkpoint wants, by the table of families."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from minitrans.errors import CheckpointError
from minitrans.families import FAMILIES, OTHERWISE, auto_name, class_names, families_with, family_row
from minitrans.files import printable, read_json
from minitrans.hub import HubOptions, local_folder
from minitrans.models.config_file import StoredConfig, interpret_config, load_config
from minitrans.models.hostile import check_is_model, model_type_of
from minitrans.models.words import LOADING
from minitrans.words import read_words
from weights_convert.checkpoint import BESIDE, CONFIG
from weights_convert.journal import Folder

if TYPE_CHECKING:
    from minitrans.attention.specs import VariantSpec
    from minitrans.models.config import EncoderConfig
    from minitrans.models.pretrained import PreTrainedModel


# Classes of one's own, by model type, and by "AutoConfig" or the Auto class that means them
_REGISTERED: dict[tuple[str, str], Any] = {}


def class_by_name(name: str) -> Any:
    """The class of this name. Raises ValueError for a name that no family has."""
    known = class_names()
    if name not in known:
        raise ValueError(f"unknown model class {name!r}; known: {', '.join(sorted(known))}")
    return getattr(import_module(f"minitrans.models.{known[name]}"), name)


def config_class(model_type: str) -> type[EncoderConfig]:
    """The configuration class of a model type. Raises ValueError for an unknown one."""
    own = _REGISTERED.get((model_type, "AutoConfig"))
    return cast("type[EncoderConfig]", own or class_by_name(family_row(model_type).class_names[0]))


def model_class(auto_name: str, model_type: str) -> type[PreTrainedModel]:
    """The class that an Auto class means for a model type. Raises ValueError where the family has no such head."""
    if (model_type, auto_name) in _REGISTERED:
        return cast("type[PreTrainedModel]", _REGISTERED[model_type, auto_name])
    row, head = family_row(model_type), auto_name.removeprefix("AutoModel") or "Model"
    if head not in row.heads:
        head = next((other for other in OTHERWISE.get(head, ()) if other in row.heads), head)
    if head not in row.heads:
        having = ", ".join(families_with(head))
        raise ValueError(f"{auto_name}: {model_type!r} has no such head; families that do: {having}")
    return cast("type[PreTrainedModel]", class_by_name(row.class_name(head)))


def stored_config(folder: Folder, attention: VariantSpec | None = None) -> StoredConfig:
    """The config.json of a folder, of whichever family it is; `attention` stands for the one it names.

    Raises:
        CheckpointError: where that is not one of ours.
    """
    check_is_model(folder)
    path = folder.path(CONFIG)
    stored = read_json(path)
    return interpret_config(stored, path, config_class(model_type_of(stored, path)), attention)


def architecture(folder: Folder, stored: StoredConfig) -> str:
    """The class that wrote the checkpoint. Raises CheckpointError where config.json names none that we have."""
    for name in stored.architectures:
        if name in class_names():
            return name
    raise CheckpointError(
        f"{printable(folder.root)}: architectures: expected a class we know, found {printable(list(stored.architectures))}; "
        "say which class to load, for example BertModel"
    )


class AutoConfig:
    """The configuration of a checkpoint, of whichever family it is."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: str | Path, **options: Any) -> Any:
        """Reads config.json; the options are those of `config_file.load_config`, fields of the configuration among them.

        Raises:
            CheckpointError: naming file, key, value and what is accepted. TypeError, ValueError: for wrong options.
        """
        return load_config(
            pretrained_model_name_or_path, lambda stored, path: config_class(model_type_of(stored, path)), **options
        )

    @staticmethod
    def for_model(model_type: str, **fields: Any) -> EncoderConfig:
        """A configuration of this family. Raises ValueError for an unknown one."""
        return config_class(model_type)(**fields)

    @staticmethod
    def register(model_type: str, config: type[EncoderConfig], exist_ok: bool = False) -> None:
        """Makes a family of one's own known to the Auto classes; names of weights and the tokenizer are those of its parent.

        Raises:
            ValueError: for another model type than the class has, one that is known unless `exist_ok`, or a class that is not
                derived from the configuration of a family.
        """
        parents = [kind for each in config.__mro__[1:] if (kind := getattr(each, "model_type", "")) in FAMILIES]
        wrong = {
            f"{config.__name__}.model_type is {config.model_type!r}, not {model_type!r}": config.model_type
            != model_type,
            f"{model_type!r} is known: exist_ok=True takes its place": model_type in FAMILIES and not exist_ok,
            f"{config.__name__}: derive it from the configuration of a family, such as BertConfig": not parents,
        }
        for message in (message for message, is_so in wrong.items() if is_so):
            raise ValueError(message)
        FAMILIES.setdefault(model_type, family_row(parents[0])._replace(heads=(), others=()))
        _REGISTERED[model_type, "AutoConfig"] = config


class _Auto:
    """Chooses the class by the `model_type` of the checkpoint."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path | None = None, config: Any = None, **words: Any
    ) -> PreTrainedModel:
        """The model of the right class; the words are those of `PreTrainedModel.from_pretrained`."""
        given = {"pretrained_model_name_or_path": pretrained_model_name_or_path, "config": config}
        options, overrides = read_words(LOADING, words, f"{cls.__name__}.from_pretrained", given)
        source = pretrained_model_name_or_path if config is None else config
        if source is None:
            raise TypeError(f"{cls.__name__}: give a folder or a name on the hub, or config= and state_dict=")
        if isinstance(config, str | Path) and os.path.isfile(config):
            config = read_json(config)
        elif isinstance(source, str | Path):
            where = {name: options[name] for name in HubOptions.__annotations__ if name in options}
            folder = Folder(local_folder(source, patterns=BESIDE, **where))
            config = stored_config(folder, options.get("attention")).config
        model_type = config.get("model_type") if isinstance(config, Mapping) else getattr(config, "model_type", None)
        return model_class(cls.__name__, str(model_type)).from_pretrained(**options, **overrides)

    @classmethod
    def from_config(cls, config: EncoderConfig, **words: Any) -> PreTrainedModel:
        """A model with fresh weights; the words are those of `PreTrainedModel.from_config`."""
        return model_class(cls.__name__, config.model_type).from_config(config, **words)

    @classmethod
    def register(
        cls, config_class: type[EncoderConfig], model_class: type[PreTrainedModel], exist_ok: bool = False
    ) -> None:
        """Makes this Auto class mean a model of one's own for this configuration, see `AutoConfig.register`.

        Raises:
            ValueError: for a model of another configuration, or where there is a model already unless `exist_ok`.
        """
        key, row = (config_class.model_type, cls.__name__), family_row(config_class.model_type)
        if model_class.config_class is not config_class:
            raise ValueError(
                f"{model_class.__name__} has {model_class.config_class.__name__}, not {config_class.__name__}"
            )
        if not exist_ok and (key in _REGISTERED or cls.__name__ in map(auto_name, row.heads)):
            raise ValueError(f"{cls.__name__} has a model for {key[0]!r}: exist_ok=True takes its place")
        _REGISTERED[key] = model_class


class AutoModel(_Auto):
    """The body."""


class AutoModelForMaskedLM(_Auto):
    """Scores of masked tokens."""


class AutoModelForCausalLM(_Auto):
    """Scores of the next token."""


class AutoModelForPreTraining(_Auto):
    """The heads a family was pre-trained with."""


class AutoModelForNextSentencePrediction(_Auto):
    """Whether one text follows another."""


class AutoModelForSequenceClassification(_Auto):
    """Classes of a text."""


class AutoModelForTokenClassification(_Auto):
    """A class for every token."""


class AutoModelForQuestionAnswering(_Auto):
    """The span that answers a question."""


class AutoModelForMultipleChoice(_Auto):
    """The best of several texts."""


class AutoModelForSeq2SeqLM(_Auto):
    """Scores of the next token of a target, given a source."""
