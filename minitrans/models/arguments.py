"""The words of a forward: their order, which is the reference's in every family, and those that mean nothing to a model."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

# What tokenizers, collators and training loops hand on with a batch, and no number depends on.
IGNORED_WORDS = frozenset({
    "special_tokens_mask", "offset_mapping", "length", "overflow_to_sample_mapping", "num_truncated_tokens", "idx", "index",
    "return_loss", "return_tensors", "cache_position", "interpolate_pos_encoding",
})  # fmt: skip

LABELS = (
    "labels",
    "start_positions",
    "end_positions",
    "next_sentence_label",
    "sentence_order_label",
    "num_items_in_batch",
)


def in_order(base: Any, names: str) -> Callable[..., Any]:
    """The forward of a base class, with these arguments by position, in this order; all others go by keyword.

    Args:
        base: whose forward takes them all by keyword.
        names: words, separated by blanks.
    """
    order = names.split()

    @wraps(base.forward)
    def reordered(self: Any, *arguments: Any, **options: Any) -> Any:
        if len(arguments) > len(order):
            raise TypeError(
                f"{type(self).__name__} takes {', '.join(order)} by position, got {len(arguments)} arguments"
            )
        return base.forward(self, **dict(zip(order, arguments, strict=False)), **options)

    had = inspect.signature(base.forward).parameters
    first = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None) for name in order]
    rest = [
        each if each.kind is each.VAR_KEYWORD else each.replace(kind=each.KEYWORD_ONLY)
        for name, each in had.items()
        if name not in ("self", *order)
    ]
    reordered.__signature__ = inspect.Signature([had["self"], *first, *rest])  # type: ignore[attr-defined]
    return reordered


def refuse_unknown(words: Iterable[str], body: Any, others: Iterable[str] = ()) -> None:
    """Raises TypeError for a word that neither the forward of a body knows nor one of the heads, naming the nearest that is.

    `others` are what the call takes besides.
    """
    known = [name for name in inspect.signature(body.forward).parameters if name != "others"]
    for word in sorted(set(words) - IGNORED_WORDS):
        near = difflib.get_close_matches(word, [*known, *LABELS, *others], n=1)
        hint = f"did you mean {near[0]}?" if near else f"the body takes {', '.join(known)}"
        hint = "this model has no loss for it; take one with the head that has" if word in LABELS else hint
        raise TypeError(f"{type(body).__name__} has no argument {word!r}: {hint}")
