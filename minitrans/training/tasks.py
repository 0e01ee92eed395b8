"""The tasks that there is a recipe for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from minitrans.errors import nearest

if TYPE_CHECKING:
    from minitrans.training.recipes.recipe import Recipe

RECIPES = {
    "classify": "Classify",
    "tag": "Tag",
    "answer": "Answer",
    "regress": "Regress",
    "mlm": "Mlm",
    "electra": "Electra",
    "lm": "Lm",
    "seq2seq": "Seq2Seq",
    "embed": "Embed",
    "distill": "Distill",
}


def recipe_class(task: str) -> type[Recipe]:
    """The recipe of a task. Raises ValueError for an unknown one."""
    if task not in RECIPES:
        raise ValueError(
            f"expected a task of {', '.join(RECIPES)}, got {task!r}: did you mean {nearest(task, RECIPES)}?"
        )
    found: type[Recipe] = getattr(import_module(f"minitrans.training.recipes.{task}"), RECIPES[task])
    return found
