"""Scores of what a model found against what is right, by the field's own tools; shares and correlations are of 100."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch

from minitrans.errors import NotSupportedError

Scores = dict[str, float]


def classes(found: Sequence[int], right: Sequence[int], count: int) -> Scores:
    """Accuracy, the mean of the F1 of all `count` classes, and the correlation of Matthews (1975)."""
    of = _tool("torchmetrics.functional.classification")
    given = {"preds": torch.tensor(found), "target": torch.tensor(right), "num_classes": count}
    return {
        "accuracy": _percent(of.multiclass_accuracy(**given, average="micro")),
        "f1": _percent(of.multiclass_f1_score(**given, average="macro")),
        "matthews": _percent(of.multiclass_matthews_corrcoef(**given)),
    }


def numbers(found: Sequence[float], right: Sequence[float]) -> Scores:
    """Correlation of the values (Pearson) and of their ranks (Spearman); 0 where one side is constant."""
    of = _tool("torchmetrics.functional")
    given = (torch.tensor(found, dtype=torch.float64), torch.tensor(right, dtype=torch.float64))
    if any(bool((side == side[:1]).all()) for side in given):
        return {"pearson": 0.0, "spearman": 0.0}
    return {
        "pearson": _percent(of.pearson_corrcoef(*given)),
        "spearman": _percent(of.spearman_corrcoef(*given)),
    }


def entities(found: Sequence[Sequence[str]], right: Sequence[Sequence[str]]) -> Scores:
    """Of whole entities, by their B- and I- tags: a word short is wrong (as conlleval); `accuracy` is that of single tags."""
    of = _tool("seqeval.metrics")
    sides = ([list(tags) for tags in right], [list(tags) for tags in found])
    scored = {name: getattr(of, f"{name}_score")(*sides, zero_division=0) for name in ("precision", "recall", "f1")}
    return {name: 100 * float(value) for name, value in {**scored, "accuracy": of.accuracy_score(*sides)}.items()}


def answers(found: Sequence[str], right: Sequence[Sequence[str]]) -> Scores:
    """Exact match and F1 of words, of the best of several right answers (Rajpurkar et al. 2016, section 6.1)."""
    of = _tool("torchmetrics.functional.text")
    texts = [{"id": str(number), "prediction_text": text} for number, text in enumerate(found)]
    targets = [
        {"id": str(number), "answers": {"text": list(each), "answer_start": [0] * len(each)}}
        for number, each in enumerate(right)
    ]
    return {name: float(value) for name, value in of.squad(texts, targets).items()}


def translations(found: Sequence[str], right: Sequence[str]) -> Scores:
    """BLEU (Papineni et al. 2002) and chrF (Popović 2015), by sacrebleu with its defaults: raw text, one reference."""
    of = _tool("sacrebleu")
    return {
        "bleu": float(of.corpus_bleu(list(found), [list(right)]).score),
        "chrf": float(of.corpus_chrf(list(found), [list(right)]).score),
    }


def perplexity(loss: float) -> float:
    """e to the mean loss of a token; infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def summary(scores: Mapping[str, float]) -> str:
    """Scores in a line."""
    return ", ".join(f"{name} {value:.2f}" if value < 1e5 else f"{name} {value:.3g}" for name, value in scores.items())


def _percent(value: Any) -> float:
    return 100 * float(value)


def _tool(name: str) -> Any:
    """A module of the extra `train`. Raises NotSupportedError, saying how to get it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise NotSupportedError(
            f"{name.partition('.')[0]} is needed for this score: pip install 'minitrans[train]'"
        ) from error
