"""Fine-tuning, pre-training and translation: a loop, and around it objectives, data, recipes of tasks and scores."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# public name -> the module that has it
_EXPORTS = {
    **dict.fromkeys(("Report", "train"), "minitrans.training.loop"),
    "TrainingSettings": "minitrans.training.settings",
    **dict.fromkeys(("HeadObjective", "Objective"), "minitrans.training.objective"),
    **dict.fromkeys(("evaluate_checkpoint", "fine_tune"), "minitrans.training.fine_tuning"),
    "configure": "minitrans.training.configuration",
    "train_tokenizer": "minitrans.training.tokenizers",
    **dict.fromkeys(("Examples", "Source"), "minitrans.training.data.source"),
    "Records": "minitrans.training.data.records",
    "read_table": "minitrans.training.data.table",
    "read_conll": "minitrans.training.data.conll",
    "read_squad": "minitrans.training.data.squad",
    "read_parallel": "minitrans.training.data.parallel",
    "from_dataset": "minitrans.training.data.hugging_face",
    **dict.fromkeys(
        ("encode_pairs", "encode_questions", "encode_texts", "encode_words"), "minitrans.training.data.encoding"
    ),
}

__all__ = [*_EXPORTS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'minitrans.training' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
