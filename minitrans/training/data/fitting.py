"""Whether data and a model go together, found out before the first step, and said with the place in the data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from torch import nn

from minitrans.layers.losses import IGNORED
from minitrans.models.pretrained import PreTrainedModel
from minitrans.training.data.source import Source


def require_fit(source: Source, model: nn.Module, classes: int | None = None) -> None:
    """Goes through the data once: ids must be below the vocabulary's size, and there must be a position for every token.

    Args:
        source: the examples.
        model: one of ours, or a module that holds some, of which the first is asked.
        classes: below which labels must be, one a text or one a token; None = labels are no classes.

    Raises:
        ValueError: naming the first example that does not fit, or if no example has a label where there should be some.
    """
    inside = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    vocabulary, positions = inside.config.vocab_size, cast("int | None", inside.base_model.longest)
    learnt = classes is None
    for index in range(len(source)):
        example = source[index]
        ids = example["input_ids"]
        labels = _flat(example.get("labels", ())) if classes is not None else ()
        learnt = learnt or any(label != IGNORED for label in labels)
        faults = (
            _outside("token id", ids, vocabulary),
            f"{len(ids)} tokens, and the model has {positions} positions" if len(ids) > (positions or len(ids)) else "",
            _outside("label", (label for label in labels if label != IGNORED), classes or 0),
        )
        if fault := next(filter(None, faults), ""):
            raise ValueError(f"{source.where(index)}: {fault}")
    if not learnt:
        raise ValueError(f"{source.where(0)}, and all after it: all labels are {IGNORED}, there is nothing to learn")


def _outside(what: str, values: Iterable[int], end: int) -> str:
    return next((f"{what} {value} is not in [0, {end})" for value in values if not 0 <= value < end), "")


def _flat(value: Any) -> list[int]:
    return list(value) if hasattr(value, "__len__") else [value]
