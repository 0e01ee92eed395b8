"""The literal table of tasks for training from scratch: a further one is a file and a row."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minitrans.attention.registry import load
from minitrans.files import printable
from minitrans.lab.tasks.task import Task


@dataclass(frozen=True)
class Row:
    """Of the table.

    Attributes:
        make: "module:function" that is called with its files and keyword options, and returns the task.
        files: names below the folder of data.
    """

    make: str
    files: tuple[str, ...] = ()


TASKS = {
    "mqar": Row("minitrans.lab.tasks.recall:recall"),
    "copy": Row("minitrans.lab.tasks.copying:copying"),
    "induction": Row("minitrans.lab.tasks.induction:induction"),
    "listops": Row("minitrans.lab.tasks.listops:listops"),
    "reviews": Row("minitrans.lab.tasks.reviews:reviews", ("movie_reviews.zip",)),
    "masked": Row("minitrans.lab.tasks.masked:masked", ("wikitext2/train.txt.gz", "wikitext2/valid.txt.gz")),
}


def read_task(text: str) -> tuple[Row, dict[str, Any]]:
    """The row of a task and its options, out of its name or JSON: {"name": "mqar", "pairs": 16}. Raises ValueError."""
    try:
        said = json.loads(text) if text.lstrip().startswith("{") else {"name": text}
        row = TASKS[said.pop("name")]
    except (ValueError, KeyError, TypeError):
        known = ", ".join(TASKS)
        raise ValueError(
            f"expected a task ({known}), or JSON with its name and options, got {printable(text)}"
        ) from None
    options = inspect.signature(load(row.make)).parameters
    wrong = [name for name, value in said.items() if name not in options or type(value) is not int]
    if wrong:
        known = ", ".join(name for name, each in options.items() if each.kind is each.KEYWORD_ONLY)
        raise ValueError(f"options of a task are whole numbers, here {known}; got {printable(', '.join(wrong))}")
    return row, said


def make_task(text: str, files: Mapping[str, Path]) -> Task:
    """The task that the user writes so."""
    row, options = read_task(text)
    task: Task = load(row.make)(*(files[name] for name in row.files), **options)
    return task
