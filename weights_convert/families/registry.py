"""Which table belongs to which `model_type`; a family is added by a row here and a file beside this one."""

from __future__ import annotations

from importlib import import_module

from minitrans.errors import NotSupportedError
from minitrans.files import printable
from weights_convert.families.family import Family

FAMILIES: dict[str, str] = {
    "bert": "weights_convert.families.bert",
    "roberta": "weights_convert.families.roberta",
    "xlm-roberta": "weights_convert.families.roberta",
    "camembert": "weights_convert.families.roberta",
    "distilbert": "weights_convert.families.distilbert",
    "albert": "weights_convert.families.albert",
    "electra": "weights_convert.families.electra",
    "mpnet": "weights_convert.families.mpnet",
    "roberta-prelayernorm": "weights_convert.families.roberta_prelayernorm",
}


def family_of(model_type: str) -> Family:
    """The family of a model type. Raises NotSupportedError, listing the known ones, for any other."""
    if model_type not in FAMILIES:
        raise NotSupportedError(
            f"no name table for model_type {printable(model_type)!r}; there is one for {', '.join(FAMILIES)}"
        )
    family: Family = import_module(FAMILIES[model_type]).FAMILY
    return family
