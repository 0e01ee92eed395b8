"""From a model to a checkpoint folder that the reference opens too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from minitrans.families import class_names
from minitrans.files import printable
from minitrans.models.config_file import config_json
from minitrans.models.loading import blank_model, family_of, logger
from weights_convert.journal import Save
from weights_convert.plan import FLOATS
from weights_convert.report import ConversionReport
from weights_convert.translate import file_tensors
from weights_convert.writing import write_files


def save_model(
    model: Any,
    folder: str | Path,
    *,
    max_shard_size: int | str = "5GB",
    others: Callable[[Save], bool] = lambda save: False,
) -> ConversionReport:
    """Writes config.json and the weights into `folder`, replacing an older checkpoint there as a whole.

    The files hold the keys that the reference writes for this class. The rest is as in `write_files`.

    Raises:
        ValueError: where the folder is a file, a size cannot be read, or a setting cannot be written.
        OSError: where the disk refuses.
    """
    cls = _public_class(type(model))
    report = ConversionReport()
    config = _config_as_built(model, report)
    tensors = file_tensors(dict(model.state_dict()), family_of(config.model_type), config, report)
    _note_departures(cls, model, config, report)
    floats = (parameter.dtype for parameter in model.parameters() if parameter.dtype in FLOATS)
    content = config_json(config, [cls.__name__], next(floats, None))
    write_files(folder, tensors, content, report, max_shard_size=max_shard_size, others=others)
    for line in report.notes:
        logger.warning("%s saved to %s: %s", cls.__name__, printable(folder), line)
    return report


def _config_as_built(model: Any, report: ConversionReport) -> Any:
    """The configuration, without a tie that the model does not keep any more."""
    config = model.config
    output = model.get_output_embeddings()
    if (
        output is not None
        and config.tie_word_embeddings
        and not _same(output.weight, model.get_input_embeddings().weight)
    ):
        report.notes.append("the decoder is not the token table any more: saved as two, tie_word_embeddings is False")
        return config.updated(tie_word_embeddings=False)
    return config


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one is other or (one.shape == other.shape and torch.equal(one, other.to(one.device)))


def _public_class(cls: type[Any]) -> type[Any]:
    """The class that the reference knows by name: a user's subclass is saved as the class it derives from."""
    known = class_names()
    for base in cls.__mro__:
        if base.__name__ in known:
            return base
    raise ValueError(f"{cls.__name__}: expected a model class of minitrans")


def _note_departures(cls: type[Any], model: Any, config: Any, report: ConversionReport) -> None:
    """Names parameters that a model made from this configuration would not have, or not in this shape."""
    expected = {name: tuple(tensor.shape) for name, tensor in blank_model(cls, config).state_dict().items()}
    for name, tensor in model.state_dict().items():
        if name in expected and expected[name] != tuple(tensor.shape):
            report.notes.append(
                f"{printable(name)}: has shape {list(tensor.shape)} where the configuration says {list(expected[name])}; "
                "to load it again, say so in the arguments (num_labels=... for a classifier)"
            )
