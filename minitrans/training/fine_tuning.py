"""A recipe on files: read, train, score, save; and the same scores of a model that is there already."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from minitrans.files import printable, read_json, write_json
from minitrans.tokenizers.auto import AutoTokenizer
from minitrans.training.configuration import Configuration, configure
from minitrans.training.loop import Report, train
from minitrans.training.metrics import Scores
from minitrans.training.tasks import recipe_class

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
        settings: fields of `TrainingSettings` and of the recipe, and `architecture`.

    Returns:
        The report; its metrics are those of the model that is saved.

    Raises:
        ValueError: for a faulty file or an impossible setting, naming it.
    """
    told = configure(task, **settings) if isinstance(task, str) else task
    recipe, folder = told.recipe, Path(out)
    records = recipe.read(_paths(data))
    others = recipe.read(_paths(dev)) if _paths(dev) else None
    body, words = recipe.load(_text(model), _text(tokenizer), told.architecture, records)
    body.to(device)
    source = recipe.examples(records, body, words)
    objective = recipe.objective(body, words)

    def evaluate(trained: nn.Module) -> Mapping[str, float]:
        assert others is not None
        return recipe.score(trained, words, others)  # type: ignore[arg-type]

    chosen = replace(told.settings, **({"best": recipe.best, "maximize": recipe.maximize} if others else {}))
    start = time.perf_counter()
    report = train(body, objective, source, chosen, evaluate=evaluate if others else None, out=folder)
    seconds = time.perf_counter() - start
    recipe.save(body.eval(), words, folder)
    report.metrics = report.metrics or (evaluate(body) if others else {})
    write_json(
        folder / FILE,
        {
            "task": _name(recipe), "recipe": asdict(recipe), "settings": asdict(chosen), "model": _text(model),
            "data": [*map(str, _paths(data))], "dev": [*map(str, _paths(dev))], "examples": len(source),
            "steps": report.steps, "seconds": round(seconds, 1), "metrics": dict(report.metrics),
        },
    )  # fmt: skip
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
    model = recipe.auto.from_pretrained(name).to(device)
    return recipe.score(model, AutoTokenizer.from_pretrained(name), recipe.read(_paths(data)))


def _name(recipe: Any) -> str:
    from minitrans.training.tasks import RECIPES

    return next(task for task in RECIPES if type(recipe) is recipe_class(task))


def _paths(given: Paths | str | Path) -> list[Path]:
    return [Path(given)] if isinstance(given, str | Path) else [Path(each) for each in given]


def _text(given: str | Path | None) -> str | None:
    return None if given is None else str(given)
