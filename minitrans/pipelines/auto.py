"""`minitrans.pipeline("fill-mask", model="bert-base-uncased")`: the pipeline of a task."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from minitrans.files import printable
from minitrans.models.pretrained import PreTrainedModel
from minitrans.models.words import LOADING

if TYPE_CHECKING:
    from minitrans.attention.specs import VariantSpec
    from minitrans.pipelines.base import Pipeline
    from minitrans.tokenizers.tokenizer import Tokenizer

logger = logging.getLogger("minitrans")
TASKS = {
    "text-classification": "minitrans.pipelines.text_classification:TextClassification",
    "token-classification": "minitrans.pipelines.token_classification:TokenClassification",
    "question-answering": "minitrans.pipelines.question_answering:QuestionAnswering",
    "fill-mask": "minitrans.pipelines.fill_mask:FillMask",
    "text-generation": "minitrans.pipelines.text_generation:TextGeneration",
    "text2text-generation": "minitrans.pipelines.text_to_text:TextToText",
    "translation": "minitrans.pipelines.text_to_text:Translation",
    "summarization": "minitrans.pipelines.text_to_text:Summarization",
    "zero-shot-classification": "minitrans.pipelines.zero_shot_classification:ZeroShotClassification",
    "feature-extraction": "minitrans.pipelines.feature_extraction:FeatureExtraction",
}
# What a call without a model means, as in the reference
MODELS = {
    "text-classification": "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
    "token-classification": "dbmdz/bert-large-cased-finetuned-conll03-english",
    "question-answering": "distilbert/distilbert-base-cased-distilled-squad",
    "fill-mask": "distilbert/distilroberta-base",
    "text-generation": "openai-community/gpt2",
    "text2text-generation": "google-t5/t5-base",
    "translation": "google-t5/t5-base",
    "summarization": "sshleifer/distilbart-cnn-12-6",
    "zero-shot-classification": "facebook/bart-large-mnli",
    "feature-extraction": "distilbert/distilbert-base-cased",
}
ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification"}


def pipeline_class(task: str) -> type[Pipeline]:
    """The pipeline of a task. Raises ValueError for an unknown one."""
    path = TASKS.get(ALIASES.get(task, task))
    if path is None:
        raise ValueError(f"task: expected one of {', '.join([*TASKS, *ALIASES])}, got {printable(task)!r}")
    module, _, name = path.partition(":")
    cls: type[Pipeline] = getattr(import_module(module), name)
    return cls


def pipeline(
    task: str,
    model: str | Path | PreTrainedModel | None = None,
    tokenizer: str | Path | Tokenizer | None = None,
    *,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | str | None = None,
    attention: VariantSpec | None = None,
    backend: str = "auto",
    padding: str = "auto",
    batch_size: int = 32,
    revision: str | None = None,
    local_files_only: bool = False,
    **options: Any,
) -> Pipeline:
    """A model and its tokenizer, ready for a task: one text in, its result out; a list in, a list out.

    Names, arguments and results are those of `transformers.pipeline`. Texts run in batches of like length, and their padding
    is left out as the model chooses.

    Args:
        task: a key of `TASKS`, or "sentiment-analysis", "ner" or "translation_XX_to_YY".
        model: a folder, a name on the Hugging Face hub, or a loaded model; None = that of `MODELS`, with a warning.
        tokenizer: the same; None = the model's own.
        device: where to run; a number is that of a CUDA device, -1 the CPU; None = where the model is, the CPU for a fresh one.
        dtype, attention, backend, padding, revision, local_files_only: see `PreTrainedModel.from_pretrained`.
        batch_size: texts that run together.
        options: words of `from_pretrained`, such as cache_dir or torch_dtype, alone or as `model_kwargs`; the others are of every
            call of the pipeline, such as top_k=3, and a call may give others.

    Raises:
        ValueError, TypeError: for an unknown task, a faulty checkpoint, or one that lacks the head of this task.
    """
    if task.startswith("translation_"):  # "translation_en_to_de"
        task, options["direction"] = "translation", task
    cls = pipeline_class(task)
    if model is None:
        model = MODELS[ALIASES.get(task, task)]
        logger.warning("pipeline: no model is named, %s is taken, at whatever revision is newest", model)
    if isinstance(device, int):
        device = f"cuda:{device}" if device >= 0 else "cpu"
    given = {"dtype": dtype, "attention": attention, "backend": backend, "padding": padding}
    words: dict[str, Any] = {name: value for name, value in given.items() if value not in (None, "auto")}
    words |= options.pop("model_kwargs", None) or {}
    words |= {name: options.pop(name) for name in [*options] if name in LOADING}
    if not isinstance(model, PreTrainedModel):
        words |= {"device": device, "revision": revision, "local_files_only": local_files_only}
        return cls(cls.load(model, tokenizer, **words), batch_size=batch_size, **options)
    if tokenizer is None or words:
        told = f", got {', '.join(words)}" if words else ""
        raise ValueError(f"a model that is loaded already needs its tokenizer, and no words of loading{told}")
    return cls(cls.of(model.to(device), tokenizer), batch_size=batch_size, **options)
