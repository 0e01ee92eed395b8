"""A recipe on files: read, train, score, save; and the same scores of a model that is there already."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from minitrans.files import printable, read_json, write_json
from minitrans.training.configuration import Configuration, configure
from minitrans.training.data.fitting import require_fit
from minitrans.training.distributed import full_state
from minitrans.training.logs import JSONL
from minitrans.training.loop import Report, train
from minitrans.training.metrics import Scores
from minitrans.training.tasks import RECIPES

FILE = "recipe.json"  # beside the weights: which task, with what, and what came of it

Paths = Sequence[str | Path]


def fine_tune(
    task: str | Configuration,
    data: Paths | str | Path,
    out: str | Path,
    *,
    model: str | Path | None = None,
    dev: Paths | str | Path = (),
    tokenizer: str | Path | None = None,
    device: str = "cpu",
    resume: bool = False,
    **settings: Any,
) -> Report:
    """Trains a model for a task on files, and saves it where `from_pretrained`, `pipeline` and the reference open it.

    Args:
        task: a name of RECIPES, or what `configure` made of a name and a file.
        data: the file, or files, to learn from, as the recipe reads them.
        out: the folder for the model, its checkpoints on the way, logs and the report.
        model: the checkpoint to start from; None = fresh weights, of `architecture`.
        dev: the file or files to score on; none = the loss is all that is known.
        tokenizer: another tokenizer than the checkpoint's.
        device: where to train.
        resume: go on from the newest checkpoint in `out`.
        settings: fields of `TrainingSettings` and of the recipe, and `architecture`.

    Returns:
        The report; its metrics are those of the model that is saved.

    Raises:
        ValueError: for a faulty file or an impossible setting, naming it.
    """
    told = configure(task, **settings) if isinstance(task, str) else task
    recipe, folder = told.recipe, Path(out)
    chosen = recipe.adjusted(told.settings)
    records = recipe.read(_paths(data))
    others = recipe.read(_paths(dev)) if _paths(dev) else None
    torch.manual_seed(chosen.seed)  # weights that no checkpoint has
    begun = (_text(model), _text(tokenizer), told.architecture, records)
    body, words = recipe.load(*begun)
    body.to(device)
    source = recipe.examples(records, body, words)
    require_fit(source, body)
    if others:
        recipe.require_scorable(others, body, words)
    objective = recipe.objective(body, words)

    def evaluate(trained: nn.Module) -> Mapping[str, float]:
        assert others is not None
        return recipe.score(trained, words, others)  # type: ignore[arg-type]

    start = time.perf_counter()
    report = train(
        body, objective, source, chosen, evaluate=evaluate if others else None, out=folder, resume=resume,
        identity={"vocabulary": _hash(words.backend_tokenizer.to_str()), "recipe": _hash(repr(recipe))},
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if isinstance(body, FSDPModule):  # shards cannot be saved by one rank: the same model anew, with all of the weights
        state = full_state(body)
        body = recipe.load(*begun)[0].to(device)
        body.load_state_dict(state)
    if report.best is not None and report.best[0] != report.steps:
        report.metrics = evaluate(body.eval())
    if int(os.environ.get("RANK", "0")) == 0:
        recipe.save(body.eval(), words, folder)
        told_of = {
            "task": _name(recipe), "recipe": asdict(recipe), "settings": asdict(chosen), "model": _text(model),
            "data": [*map(str, _paths(data))], "dev": [*map(str, _paths(dev))], "examples": len(source),
            "steps": report.steps, "seconds": round(seconds, 1), "tokens_per_second": _speed(folder),
            "metrics": dict(report.metrics),
        }  # fmt: skip
        write_json(folder / FILE, told_of)
    return report


def evaluate_checkpoint(
    name: str | Path, data: Paths | str | Path, *, task: str | None = None, device: str = "cpu", **settings: Any
) -> Scores:
    """The scores of a model on files, as in its training.

    Args:
        name: its folder, or a name on the hub.
        data: the file, or files, to score on.
        task: a name of RECIPES; None = the one that it was trained for here.
        device: where it runs.
        settings: fields of the recipe that differ from the training's.

    Raises:
        ValueError: where nothing tells the task, or a file or the checkpoint is faulty.
    """
    stored = read_json(Path(name) / FILE) if (Path(name) / FILE).is_file() else {}
    if task is None and "task" not in stored:
        raise ValueError(f"{printable(name)}: was not trained by minitrans train: say which task it is for (--task)")
    chosen = task or stored["task"]
    own = stored["recipe"] if chosen == stored.get("task") else {}
    recipe = configure(chosen, **{**own, **settings}).recipe
    model, tokenizer = recipe.reload(str(name))
    return recipe.score(model.to(device), tokenizer, recipe.read(_paths(data)))


def _speed(folder: Path) -> float | None:
    """Tokens a second, the median of what the log says."""
    lines = [json.loads(line) for line in (folder / JSONL).read_text(encoding="utf-8").splitlines()]
    found = [line["tokens_per_second"] for line in lines if "tokens_per_second" in line]
    return statistics.median(found) if found else None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _name(recipe: Any) -> str:
    return next(task for task, name in RECIPES.items() if name == type(recipe).__name__)


def _paths(given: Paths | str | Path) -> list[Path]:
    return [Path(given)] if isinstance(given, str | Path) else [Path(each) for each in given]


def _text(given: str | Path | None) -> str | None:
    return None if given is None else str(given)
