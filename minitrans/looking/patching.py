"""Activation patching: what of one text, written into the run of another, brings its answer along (Meng et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from minitrans.looking.look import look
from minitrans.looking.names import find
from minitrans.looking.sites import Site, sites_of

Batch = Mapping[str, Tensor]
Metric = Callable[[Any], float | Tensor]


@dataclass(frozen=True, eq=False)
class Sweep:
    """What a patch at each place gives.

    Attributes:
        values: (L, T) or (L, H), the metric with the patch there.
        rows: the layers.
        base: the metric without a patch.
        full: that of the run that the patches come from.
    """

    values: Tensor
    rows: tuple[int, ...]
    base: float
    full: float

    @property
    def restored(self) -> Tensor:
        """`values` as shares: 0 = as without a patch, 1 = as where the patch comes from. NaN where both are the same."""
        return (self.values - self.base) / (self.full - self.base)


@torch.no_grad()
def patch(
    model: nn.Module,
    batch: Batch,
    source: Batch,
    point: str,
    metric: Metric,
    *,
    layers: Iterable[int] | None = None,
    by: str = "positions",
) -> Sweep:
    """Runs `batch` once a layer and place, with the values of `source` at that place.

    Args:
        model: any that `look` takes.
        batch: one text or several, as the forward takes them.
        source: as many tokens in each; the texts may be any.
        point: where; see `POINTS`.
        metric: of the model's output, one number.
        layers: of these only.
        by: "positions", one token at a time; "heads", one head; or "all", the whole value.

    Raises:
        ValueError: for batches of unequal shape, heads of a point that has none, and as `look`.
    """
    shapes = [{name: tuple(each.shape) for name, each in one.items()} for one in (batch, source)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the two texts must have as many tokens: {shapes[0]} and {shapes[1]}")
    sites = [site for site in find(point, sites_of(model), layers) if site.layer is not None]
    with look(model, point, layers=layers) as seen:
        full = float(metric(model(**source)))
    values = []
    for site in sites:
        name = (site.full_name, int(site.layer or 0))
        given = seen[name]
        axis = _axis(site, by)
        places = [None] if axis is None else list(range(given.shape[axis]))
        values.append([
            _with(model, batch, name, partial(_written, given=given, axis=axis, place=place), metric) for place in places
        ])  # fmt: skip
    base = float(metric(model(**batch)))
    return Sweep(torch.tensor(values, dtype=torch.float64), tuple(int(site.layer or 0) for site in sites), base, full)


def _axis(site: Site, by: str) -> int | None:
    letters: Sequence[str] = site.point.shape.split(", ")
    if by == "all":
        return None
    if by == "heads":
        if site.point.head_axis is None:
            raise ValueError(f"{site.full_name!r} has no heads: sweep it by positions")
        return site.point.head_axis
    if by != "positions":
        raise ValueError(f"by must be 'positions', 'heads' or 'all', got {by!r}")
    return next(letters.index(letter) for letter in ("T", "S") if letter in letters)


def _with(model: nn.Module, batch: Batch, name: tuple[str, int], edit: Any, metric: Metric) -> float:
    with look(model, edit={name: edit}):
        return float(metric(model(**batch)))


def _written(value: Tensor, given: Tensor, axis: int | None, place: int | None) -> Tensor:
    if axis is None or place is None:
        return given.clone()
    value = value.clone()
    value.select(axis, place).copy_(given.select(axis, place))
    return value
