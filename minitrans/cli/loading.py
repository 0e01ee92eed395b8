"""From the options of a command to a model that is ready, or to a refusal that says why not."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from minitrans.attention.backend_selection import BackendChoice
from minitrans.attention.dispatch import explain_backend
from minitrans.attention.mask import AttentionMask
from minitrans.attention.rules import AttentionRules
from minitrans.cli.errors import note
from minitrans.cli.options import DTYPES, Runtime, attention_spec
from minitrans.cli.text import busy
from minitrans.embedding.encoder import Encoder
from minitrans.embedding.folder import body_place, read_head, read_recipe
from minitrans.families import class_names
from minitrans.files import printable
from minitrans.models.auto import AutoConfig, AutoModel, class_by_name
from minitrans.models.pretrained import PreTrainedModel
from minitrans.pipelines.auto import pipeline_class
from minitrans.pipelines.base import Loaded, Pipeline
from weights_convert.translate import OWN_NAMES


def load(runtime: Runtime, task: type[Pipeline] = Pipeline) -> Loaded:
    """The tokenizer and the model for a task, whose head must come from the checkpoint.

    Raises:
        ValueError, TypeError: for options that cannot be used here, a faulty checkpoint, or one without that head.
    """
    device = checked_device(runtime.device)
    if runtime.dtype not in (None, *DTYPES):
        raise ValueError(f"--dtype: expected one of {', '.join(DTYPES)}, got {printable(runtime.dtype)!r}")
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    if runtime.attention is not None:
        sys.path.append(os.getcwd())  # where a module:Class of the user's lies
    with busy(f"loading {printable(runtime.model)}"), _silent(logging.getLogger("minitrans")):
        loaded = task.load(
            runtime.model, device=device, dtype=runtime.dtype, attention=attention_spec(runtime.attention),
            backend=runtime.backend,
        )  # fmt: skip
    report = loaded.model.load_report
    assert report is not None
    swapped = [name for name in report.fresh if OWN_NAMES in name]  # besides, a body may lack its pooler: none uses it
    for line in replace(report, fresh=swapped).warnings:
        note(f"{printable(runtime.model)}: {line}")
    return loaded


class _AsStored:
    """The class that a checkpoint was written by, head and all; of one that does not say, the body."""

    @staticmethod
    def from_pretrained(name_or_path: str, **options: Any) -> PreTrainedModel:
        """See `PreTrainedModel.from_pretrained`."""
        names = AutoConfig.from_pretrained(name_or_path).architectures or []
        known = [name for name in names if name in class_names()]
        model: PreTrainedModel = (class_by_name(known[0]) if known else AutoModel).from_pretrained(
            name_or_path, **options
        )
        return model


class _Whole(Pipeline):
    auto_class = _AsStored


def load_whole(runtime: Runtime) -> Loaded:
    """The model as it was stored, with the head it has. Raises as `load` does."""
    return load(runtime, _Whole)


def load_pipeline(runtime: Runtime, task: str) -> Any:
    """The pipeline of a task. Raises as `load` does."""
    cls = pipeline_class(task)
    return cls(load(runtime, cls), batch_size=runtime.batch_size or 32)


def load_encoder(runtime: Runtime, precision: str | None = None) -> Encoder:
    """The encoder of texts in a checkpoint. Raises as `load` does."""
    recipe = read_recipe(runtime.model)
    loaded = load(replace(runtime, model=str(body_place(runtime.model, recipe))))
    return Encoder.of(loaded.model, loaded.tokenizer, recipe, read_head(runtime.model, recipe), precision)


def checked_device(name: str) -> torch.device:
    """The device of this name. Raises ValueError if there is none here."""
    usable = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    try:
        device: torch.device | None = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in usable:
        raise ValueError(f"--device: expected cpu, cuda, cuda:1 or mps, got {printable(name)!r}")
    if (device.index or 0) >= usable[device.type]:
        kind, count = device.type.upper(), usable[device.type]
        raise ValueError(f"--device {name}: no {kind} device of this number, there are {count}; use --device cpu")
    return device


def chosen_backend(model: PreTrainedModel, backend: str = "auto") -> BackendChoice:
    """What computes the attention of this model on a padded batch, and why."""
    config = model.config
    shape = (1, config.num_attention_heads, 2, config.hidden_size // config.num_attention_heads)
    query = torch.zeros(shape, device=model.device, dtype=model.dtype)
    mask = AttentionMask(key_padding=torch.tensor([[True, False]], device=model.device))
    return explain_backend(query, query, AttentionRules(mask=mask), backend=backend)


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    """What the loader would log is in its report, and told from there."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
