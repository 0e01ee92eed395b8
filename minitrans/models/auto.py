"""Which class a checkpoint wants: literal tables from model type to configuration, body and heads."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from minitrans.models.config import EncoderConfig
    from minitrans.models.pretrained import PreTrainedModel

# model type -> (module, prefix of its class names)
FAMILIES = {
    "bert": ("minitrans.models.bert", "Bert"),
    "roberta": ("minitrans.models.roberta", "Roberta"),
    "xlm-roberta": ("minitrans.models.xlm_roberta", "XLMRoberta"),
    "camembert": ("minitrans.models.camembert", "Camembert"),
    "distilbert": ("minitrans.models.distilbert", "DistilBert"),
    "albert": ("minitrans.models.albert", "Albert"),
    "electra": ("minitrans.models.electra", "Electra"),
    "mpnet": ("minitrans.models.mpnet", "MPNet"),
    "roberta-prelayernorm": ("minitrans.models.roberta_prelayernorm", "RobertaPreLayerNorm"),
}

_ALL = tuple(FAMILIES)
_ENCODERS_ONLY = ("distilbert", "albert", "mpnet")  # no decoder, no cache
_DECODERS = tuple(family for family in FAMILIES if family not in _ENCODERS_ONLY)
# name of the Auto class -> (what follows the family's prefix, the families that have it)
TASKS = {
    "AutoModel": ("Model", _ALL),
    "AutoModelForMaskedLM": ("ForMaskedLM", _ALL),
    "AutoModelForCausalLM": ("ForCausalLM", _DECODERS),
    "AutoModelForSequenceClassification": ("ForSequenceClassification", _ALL),
    "AutoModelForTokenClassification": ("ForTokenClassification", _ALL),
    "AutoModelForQuestionAnswering": ("ForQuestionAnswering", _ALL),
    "AutoModelForMultipleChoice": ("ForMultipleChoice", _ALL),
    "AutoModelForPreTraining": ("ForPreTraining", ("bert", "albert", "electra")),
    "AutoModelForNextSentencePrediction": ("ForNextSentencePrediction", ("bert",)),
}
# the one class whose name does not follow the pattern
_NAMES = {"BertForCausalLM": "BertLMHeadModel"}


def class_names() -> dict[str, str]:
    """Every public class of every family, and the module that has it."""
    names = {}
    for model_type, (module, prefix) in FAMILIES.items():
        names[f"{prefix}Config"] = module
        for suffix, families in TASKS.values():
            if model_type in families:
                names[_NAMES.get(f"{prefix}{suffix}", f"{prefix}{suffix}")] = module
    return names


def class_by_name(name: str) -> Any:
    """The class of this name. Raises ValueError for a name that no family has."""
    module = class_names().get(name)
    if module is None:
        raise ValueError(f"unknown model class {name!r}; known: {', '.join(sorted(class_names()))}")
    return getattr(import_module(module), name)


def config_class(model_type: str) -> type[EncoderConfig]:
    """The configuration class of a model type. Raises ValueError for an unknown one."""
    _, prefix = _family(model_type)
    return cast("type[EncoderConfig]", class_by_name(f"{prefix}Config"))


def model_class(auto_name: str, model_type: str) -> type[PreTrainedModel]:
    """The class that an Auto class means for a model type. Raises ValueError where the family has no such head."""
    _, prefix = _family(model_type)
    suffix, families = TASKS[auto_name]
    if model_type not in families:
        raise ValueError(f"{auto_name}: {model_type!r} has no such head; families that do: {', '.join(families)}")
    name = f"{prefix}{suffix}"
    return cast("type[PreTrainedModel]", class_by_name(_NAMES.get(name, name)))


def _family(model_type: str) -> tuple[str, str]:
    if model_type not in FAMILIES:
        raise ValueError(f"unknown model type {model_type!r}; known: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


class AutoConfig:
    """The configuration of a checkpoint, of whichever family it is."""

    @staticmethod
    def from_pretrained(
        name_or_path: str | Path, *, revision: str | None = None, local_files_only: bool = False, **overrides: Any
    ) -> EncoderConfig:
        """Reads config.json. Raises CheckpointError where it is not one of a known family."""
        from weights_convert import read_config

        return read_config(name_or_path, revision=revision, local_files_only=local_files_only, overrides=overrides)


class _Auto:
    """Chooses the class by the `model_type` of the checkpoint."""

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **options: Any) -> PreTrainedModel:
        """The model of the right class; the options are those of `PreTrainedModel.from_pretrained`."""
        from weights_convert import read_config

        config = options.get("config") or read_config(
            name_or_path,
            revision=options.get("revision"),
            local_files_only=options.get("local_files_only", False),
            overrides={},
        )
        return model_class(cls.__name__, config.model_type).from_pretrained(name_or_path, **options)

    @classmethod
    def from_config(cls, config: EncoderConfig) -> PreTrainedModel:
        """A model with fresh weights."""
        return model_class(cls.__name__, config.model_type)(config)


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
