"""From the options of a command to a model that is ready, or to a refusal that says why not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from minitrans.attention.choice import BackendChoice
from minitrans.attention.dispatch import explain_backend
from minitrans.attention.mask import AttentionMask
from minitrans.attention.registry import check_backend, resolve_variant
from minitrans.cli.guard import note
from minitrans.cli.options import DTYPES, Runtime, attention_spec
from minitrans.cli.writing import busy
from minitrans.embedding.encoder import Encoder, longest_input, read_head
from minitrans.embedding.recipe import body_place, read_recipe
from minitrans.files import printable
from minitrans.models import auto
from minitrans.models.pretrained import PreTrainedModel
from minitrans.tokenizers.auto import AutoTokenizer
from minitrans.tokenizers.tokenizer import Tokenizer

# the class that loads what a command needs -> what its users call that
HEADS = {
    "AutoModelForMaskedLM": "masked-language-model head",
    "AutoModelForSequenceClassification": "classifier of texts",
    "AutoModelForTokenClassification": "classifier of tokens",
    "AutoModelForQuestionAnswering": "question-answering head",
}


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer, and the longest input that both take."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    max_length: int


def load(runtime: Runtime, auto_name: str = "AutoModel") -> Loaded:
    """The tokenizer and the model of the Auto class of this name; a task's head must come from the checkpoint.

    Raises:
        ValueError, TypeError: for options that cannot be used here, a faulty checkpoint, or one without that head.
    """
    device = checked_device(runtime.device)
    if runtime.dtype not in (None, *DTYPES):
        raise ValueError(f"--dtype: expected one of {', '.join(DTYPES)}, got {printable(runtime.dtype)!r}")
    check_backend(runtime.backend)
    attention = attention_spec(runtime.attention)
    if attention is not None:
        resolve_variant(attention)
    if runtime.threads is not None:
        torch.set_num_threads(runtime.threads)
    with busy(f"loading {printable(runtime.model)}"):
        tokenizer = AutoTokenizer.from_pretrained(runtime.model)
        with _silent(logging.getLogger("minitrans")):
            model = getattr(auto, auto_name).from_pretrained(
                runtime.model, dtype=runtime.dtype, device=device, attention=attention, backend=runtime.backend
            )
    _check_report(model, runtime.model, auto_name)
    return Loaded(model, tokenizer, longest_input(model, tokenizer))


def load_encoder(runtime: Runtime) -> Encoder:
    """The encoder of texts in a checkpoint. Raises as `load` does."""
    recipe = read_recipe(runtime.model)
    loaded = load(replace(runtime, model=str(body_place(runtime.model, recipe))))
    return Encoder.of(loaded.model, loaded.tokenizer, recipe, read_head(runtime.model, recipe), runtime.precision)


def note_truncated(encoder: Encoder, texts: int) -> None:
    """Says how many of these texts the last call has cut."""
    if encoder.truncated:
        note(f"cut to {encoder.max_length} tokens: {encoder.truncated} of {texts} texts")


def checked_device(name: str) -> torch.device:
    """The device of this name. Raises ValueError if there is none here."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device: expected cpu, cuda, cuda:1 or mps, got {printable(name)!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: no CUDA device can be used here; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices here, counted from 0")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device mps: no Apple GPU can be used here; use --device cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"--device: expected cpu, cuda, cuda:1 or mps, got {printable(name)!r}")
    return device


def chosen_backend(model: PreTrainedModel, backend: str = "auto") -> BackendChoice:
    """What computes the attention of this model on a padded batch, and why."""
    config = model.config
    shape = (1, config.num_attention_heads, 2, config.hidden_size // config.num_attention_heads)
    query = torch.zeros(shape, device=model.device, dtype=model.dtype)
    mask = AttentionMask(key_padding=torch.tensor([[True, False]], device=model.device))
    return explain_backend(query, query, mask=mask, attention=config.attention, backend=backend)


def _check_report(model: PreTrainedModel, name: str, auto_name: str) -> None:
    report = model.load_report
    assert report is not None
    if report.fresh and auto_name in HEADS:
        missing = ", ".join(report.fresh[:3]) + (", ..." if len(report.fresh) > 3 else "")
        raise ValueError(f"{printable(name)} has no trained {HEADS[auto_name]} (no {missing}): this command needs one")
    for line in replace(report, fresh=[]).warnings:  # a body may lack its pooler: no command uses it
        note(f"{printable(name)}: {line}")


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    """What the loader would log is in its report, and told from there."""
    level: Any = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
