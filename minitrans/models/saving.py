"""From a model to a checkpoint folder that the reference opens too."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from minitrans.families import class_names
from minitrans.files import printable
from minitrans.hub import upload
from minitrans.models.config_file import config_json
from minitrans.models.loading import blank_model, family_of, logger
from weights_convert.checkpoint import CONFIG, weight_files
from weights_convert.journal import Save
from weights_convert.plan import FLOATS
from weights_convert.report import ConversionReport
from weights_convert.state_dict import StateDict
from weights_convert.translate import file_tensors, translate
from weights_convert.writing import write_files

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


def save_model(
    model: Any,
    folder: str | Path,
    *,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    max_shard_size: int | str = "5GB",
    variant: str | None = None,
    others: Callable[[Save], bool] = lambda save: False,
) -> ConversionReport:
    """Writes config.json and the weights into `folder`, replacing an older checkpoint there as a whole.

    The files hold the keys that the reference writes for this class. `state_dict` stands for the tensors of the model, all of
    them. The rest is as in `write_files`.

    Raises:
        ValueError: where the folder is a file, a size cannot be read, or a setting cannot be written.
        OSError: where the disk refuses.
    """
    cls = _public_class(type(model))
    report = ConversionReport()
    config = _config_as_built(model, report)
    state = dict(model.state_dict()) if state_dict is None else _of_model(model, state_dict)
    tensors = file_tensors(state, family_of(config.model_type), config, report)
    _note_departures(cls, model, config, report)
    floats = (parameter.dtype for parameter in model.parameters() if parameter.dtype in FLOATS)
    content = config_json(config, [cls.__name__], next(floats, None))
    files = weight_files(variant, use_safetensors=True)[0]

    def beside(save: Save) -> bool:
        changed = model.write_beside(save)
        return others(save) or changed

    write_files(folder, tensors, content, report, max_shard_size=max_shard_size, files=files, others=beside)
    for line in report.notes:
        logger.warning("%s saved to %s: %s", cls.__name__, printable(folder), line)
    return report


def _of_model(model: Any, state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a state dict by the names of the model; of a tie, one may be missing. Raises CheckpointError for faults."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    job = translate(StateDict(state_dict), family_of(model.config.model_type), model.config, shapes)
    job.faults += [f"state_dict: {name}: expected a tensor, found none" for name in job.report.fresh]
    job.require_sound(type(model).__name__)
    return job.by_our_names()


def push_model(
    model: Any, repo_id: str, *, max_shard_size: int | str = "5GB", variant: str | None = None, **commit: Any
) -> CommitInfo:
    """Saves the model into a repository of the hub; `commit` is as in `minitrans.hub.upload`."""
    with tempfile.TemporaryDirectory() as folder:
        report = save_model(model, folder, max_shard_size=max_shard_size, variant=variant)
        return upload_model(folder, repo_id, report, variant, **commit)


def upload_model(
    folder: str | Path, repo_id: str | None, report: ConversionReport, variant: str | None, **commit: Any
) -> CommitInfo:
    """Uploads what a save wrote into `folder`, in place of an older model in the repository."""
    files = weight_files(variant, use_safetensors=True)[0]
    written = sorted({CONFIG, *(row.file for row in report.rows)} | ({files.index} & set(os.listdir(folder))))
    return upload(folder, repo_id or Path(folder).resolve().name, files=written, instead_of=files.patterns, **commit)


def _config_as_built(model: Any, report: ConversionReport) -> Any:
    """The configuration, without a tie that the model does not keep any more."""
    config = model.config
    output = model.get_output_embeddings()
    if output is not None and config.tie_word_embeddings and not _same(output.weight, model.tied_table().weight):
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
