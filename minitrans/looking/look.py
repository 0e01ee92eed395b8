"""`look`: for the time of a `with`, points of a model are read, or get other values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from minitrans.looking.choice import Chosen
from minitrans.looking.names import find
from minitrans.looking.seen import Seen
from minitrans.looking.sites import Site, sites_of
from minitrans.looking.watch import Edit, Watch

Name = str | tuple[str, int]


@contextmanager
def look(
    model: nn.Module,
    points: Iterable[Name] | Name = (),
    *,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    rows: Iterable[int] | None = None,
    edit: Mapping[Name, Edit] | None = None,
    gradients: bool = False,
    to: str | Path | torch.device | None = None,
) -> Iterator[Seen]:
    """Reads and edits points of a model, by PyTorch's hooks: when the `with` ends nothing is left of them.

        with look(model, ["pattern", "resid_mid"], layers=[3, 4]) as seen:
            model(**batch)
        seen["pattern", 3]  # (B, H, T, S)

        with look(model, edit={("z", 3): torch.zeros_like}, heads=[4]):
            model(**batch)

    Reading changes no number: scores and pattern are computed beside what the model computes, exactly. To edit them, or to have
    their gradients, the attention computes by the oracle, `attention/eager.py`. A model that chooses whether to leave
    padding out keeps it meanwhile.

    Args:
        model: any with a stack of blocks.
        points: names of `POINTS`, or (name, layer); with * and ?; see `names.find`.
        layers: read and edit at these only, where no layer is named; negative ones count from the end.
        heads: read and edit these only, of points that have heads.
        rows: read and edit these texts of the batch only.
        edit: by point, what becomes of the value: a function of the tensor (of the chosen rows and heads) to one of its shape.
        gradients: keep the values in the graph, for `seen.grad` after a backward pass.
        to: a device, or a folder that gets a file a value; None = where they are.

    Returns:
        What is seen; filled by the calls of the model inside the `with`.

    Raises:
        ValueError, TypeError: for unknown points and layers, a compiled model, one that runs its blocks twice; and at the end,
            where no call came past a point.
        NotSupportedError: for scores of an attention that is no softmax.
    """
    sites = sites_of(model)
    names: list[Any] = [points] if isinstance(points, str) or _is_pair(points) else list(cast("Iterable[Name]", points))
    read = dict.fromkeys(site for name in names for site in find(name, sites, layers))
    _refuse(model, read, gradients)
    edits = {site: f for name, f in (edit or {}).items() for site in find(name, sites, layers)}
    seen = Seen(list(read), to)
    chosen = Chosen(_whole(heads), _whole(rows))
    chosen.check(edits)
    watch = Watch(read, edits, seen, chosen, gradients)
    with ExitStack() as stack:
        for body in (module for module in model.modules() if getattr(module, "padding", None) == "auto"):
            stack.callback(setattr, body, "padding", "auto")
            body.padding = "keep"  # type: ignore[assignment]
        watch.install(model, stack)
        yield seen
    if seen.missing():
        raise ValueError(f"no call of the model came past {', '.join(seen.missing())}")


def _is_pair(points: object) -> bool:
    return isinstance(points, tuple) and len(points) == 2 and isinstance(points[1], int)


def _whole(numbers: Iterable[int] | None) -> list[int] | None:
    return None if numbers is None else list(numbers)


def _refuse(model: nn.Module, read: Iterable[Site], gradients: bool) -> None:
    if hasattr(model, "_orig_mod") or model._compiled_call_impl is not None:
        raise ValueError("a compiled model cannot be looked into: look at the one that was given to torch.compile")
    if gradients and any(site.bare == "head_out" for site in read):
        raise ValueError("head_out is computed beside the model and has no gradient: look at z or attn_out")
    if model.training and getattr(model, "is_gradient_checkpointing", False):
        raise ValueError(
            "with gradient checkpointing every block runs twice: call gradient_checkpointing_disable() first"
        )
