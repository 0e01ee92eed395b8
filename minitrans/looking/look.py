"""`look`: for the time of a `with`, points of a model are read, or get other values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from minitrans.attention.variant import Variant
from minitrans.layers.block import Block
from minitrans.layers.multi_head_attention import AttentionOutput, MultiHeadAttention
from minitrans.looking.names import find
from minitrans.looking.seen import Seen
from minitrans.looking.sites import Site, sites_of
from minitrans.looking.tap import Tap

Name = str | tuple[str, int]
Edit = Callable[[Tensor], Tensor]


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
    chosen = _Chosen(_whole(heads), _whole(rows))
    chosen.check(edits)
    watch = _Watch(read, edits, seen, chosen, gradients)
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


@dataclass(frozen=True)
class _Chosen:
    """Which heads and rows."""

    heads: list[int] | None
    rows: list[int] | None

    def check(self, edits: Mapping[Site, Edit]) -> None:
        """An edit of chosen heads is at points that have some."""
        for site in edits:
            if self.heads is not None and site.point.head_axis is None:
                raise ValueError(f"{site.full_name!r} is not of a head: edit it without heads=")

    def indexes(self, site: Site, value: Tensor) -> list[tuple[int, Tensor]]:
        """(axis, which) of a value."""
        axis, found = site.point.head_axis, []
        packed = axis is not None and value.dim() < len(site.point.shape.split(", "))  # N for B, T
        if self.heads is not None and axis is not None:
            found.append((axis - packed, _numbers("heads", self.heads, value, axis - packed)))
        if self.rows is not None:
            found.append((0, _numbers("rows", self.rows, value, 0)))
        return found

    def of(self, site: Site, value: Tensor) -> Tensor:
        """The part of a value that is chosen."""
        for axis, which in self.indexes(site, value):
            value = value.index_select(axis, which)
        return value

    def put(self, site: Site, value: Tensor, part: Tensor) -> Tensor:
        """The value with another part."""
        indexes = self.indexes(site, value)
        if not indexes:
            return part
        (axis, which), *others = indexes
        inner = part if not others else value.index_select(axis, which).index_copy(*others[0], part)
        return value.index_copy(axis, which, inner)


def _numbers(what: str, numbers: list[int], value: Tensor, axis: int) -> Tensor:
    last = value.shape[axis] - 1
    if any(not 0 <= number <= last for number in numbers):
        raise ValueError(f"{what} are 0 to {last}, got {numbers}")
    return torch.tensor(numbers, device=value.device)


class _Watch:
    """The hooks, and which layer runs."""

    def __init__(
        self, read: Mapping[Site, Any], edits: Mapping[Site, Edit], seen: Seen, chosen: _Chosen, gradients: bool
    ) -> None:
        self.read, self.edits, self.seen, self.chosen, self.gradients = read, edits, seen, chosen, gradients
        self.now: dict[nn.Module, int] = {}  # stack -> the layer that runs
        self.come: set[tuple[nn.Module, str]] = set()  # of the block that runs: what has been past
        self.moved: dict[Block, dict[str, Tensor]] = defaultdict(dict)  # of the stream, for what reads it later

    def install(self, model: nn.Module, stack: ExitStack) -> None:
        """Puts the hooks in; `stack` takes them out."""
        sites = dict.fromkeys([*self.read, *self.edits])
        for each in dict.fromkeys(site.stack for site in sites if site.stack is not None):
            stack.callback(each.register_forward_pre_hook(self._begin, prepend=True).remove)
            for block in each.layer:
                stack.callback(block.register_forward_pre_hook(partial(self._next, each), prepend=True).remove)
        attentions: dict[nn.Module, list[Site]] = defaultdict(list)
        places: dict[tuple[nn.Module, str], list[Site]] = defaultdict(list)
        for site in sites:
            if site.in_attention:
                attentions[site.module].append(site)
            else:
                where, side = _place(site)
                places[where, side].append(site)
        for (module, side), here in places.items():
            if side == "in":
                hook = partial(self._in, here)
                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            else:
                stack.callback(module.register_forward_hook(partial(self._out, here)).remove)
        for module, here in attentions.items():
            self._tap(cast("MultiHeadAttention", module), here, stack)
        for block, names in _streams(self.edits).items():
            self._let_move(block, names, stack)

    def _begin(self, module: nn.Module, arguments: Any) -> None:
        self.now[module] = -1

    def _next(self, stack: nn.Module, block: nn.Module, arguments: Any) -> None:
        self.now[stack] += 1
        self.come.clear()
        self.moved.clear()

    def _in(self, sites: list[Site], module: nn.Module, arguments: tuple[Any, ...], words: dict[str, Any]) -> Any:
        if not self._first(module, "in"):
            return None
        value = self._past(sites, arguments[0])
        return None if value is arguments[0] else ((value, *arguments[1:]), words)

    def _out(self, sites: list[Site], module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        if not self._first(module, "out"):
            return None
        if isinstance(output, Tensor):
            value = self._past(sites, output, arguments[0])
            return None if value is output else value
        name = "output" if isinstance(output, AttentionOutput) else "logits"
        given = getattr(output, name)
        value = self._past(sites, given)
        if value is given:
            return None
        return output._replace(output=value) if name == "output" else replace(output, logits=value)

    def _first(self, module: nn.Module, side: str) -> bool:
        """DeBERTa's projections run again, on the table of positions."""
        new = (module, side) not in self.come
        self.come.add((module, side))
        return new

    def _past(self, sites: Iterable[Site], tensor: Tensor, given: Any = None) -> Tensor:
        """All that happens to a tensor at the points where it is, in their order: edits first."""
        here = [site for site in sites if site.stack is None or site.layer in (None, self.now[site.stack])]
        for site in sorted(here, key=lambda each: each not in self.edits):
            show, put_back = _views(site, given)
            if site in self.edits:
                edited = self._edited(site, show(tensor))
                if edited is not None:
                    before, tensor = tensor, put_back(edited)
                    if site.bare == "head_out":
                        show = partial(_instead, edited)
                    if site.in_stream:
                        self.moved[cast("Block", site.block)][site.name] = tensor - before
            if site in self.read:
                self.seen.add(
                    site, tensor, lambda x, show=show, site=site: self.chosen.of(site, show(x)), self.gradients
                )
        return tensor

    def _edited(self, site: Site, value: Tensor) -> Tensor | None:
        """The value with its chosen part changed; None where the function gave back what it got."""
        part = self.chosen.of(site, value)
        given = self.edits[site](part)
        if given is part:
            return None
        if not isinstance(given, Tensor) or given.shape != part.shape or given.dtype != part.dtype:
            got = f"{tuple(given.shape)} of {given.dtype}" if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(
                f"an edit of {site.full_name!r} must return {tuple(part.shape)} of {part.dtype}, got {got}"
            )
        return self.chosen.put(site, value, given)

    def _tap(self, attention: MultiHeadAttention, sites: list[Site], stack: ExitStack) -> None:
        def touch(name: str, value: Tensor) -> Tensor:
            return self._past((site for site in sites if site.bare == name), value)

        names = {site.bare for site in sites}
        swaps = self.gradients or any(site in self.edits for site in sites if site.bare in ("scores", "pattern"))
        before = attention.variants
        tap = Tap(attention, names, touch, swaps).train(attention.training)
        stack.callback(setattr, attention, "variants", before)
        attention.variants = cast("Any", nn.ModuleList([*cast("Iterable[Variant]", before), tap]))

    def _let_move(self, block: Block, names: set[str], stack: ExitStack) -> None:
        """What an edit adds to the stream of a pre-norm block reaches what reads the stream after that norm, too."""
        later = [(block, "")]
        if "resid_mid" in names and block.cross_attention is not None:
            later.append((cast("Any", block.feed_forward_LayerNorm), "in"))

        def moved(module: nn.Module, *call: Any) -> Any:
            steps = self.moved.get(block, {})
            tensor = call[-1] if module is block else call[0][0]
            for name, step in steps.items():
                if module is block or name == "resid_mid":
                    tensor = tensor + step
            return tensor if module is block else (tensor, *call[0][1:])

        for module, side in later:
            if side == "in":
                stack.callback(module.register_forward_pre_hook(moved, prepend=True).remove)
            else:
                stack.callback(module.register_forward_hook(moved, prepend=True).remove)


def _streams(edits: Mapping[Site, Edit]) -> dict[Block, set[str]]:
    found: dict[Block, set[str]] = defaultdict(set)
    for site in edits:
        if site.in_stream:
            found[cast("Block", site.block)].add(site.name)
    return found


def _place(site: Site) -> tuple[nn.Module, str]:
    if site.bare == "head_out":
        return cast("MultiHeadAttention", site.module).output, "out"
    return site.module, site.side


def _views(site: Site, given: Any) -> tuple[Edit, Edit]:
    """From the tensor of a module, which was given `given`, to what its point shows, and back."""
    if site.in_attention or site.point.head_axis is None:
        return _same, _same
    attention = cast("Any", site.block).cross_attention if site.name != site.bare else cast("Any", site.block).attention
    width, projection = attention.head_width, attention.output
    if site.bare == "head_out":
        parts = projection.weight.unflatten(1, (-1, width))  # (D, H, K)
        bias = 0.0 if projection.bias is None else projection.bias
        heads = torch.einsum("...hk,dhk->...hd", given.unflatten(-1, (-1, width)), parts)
        return (lambda x: heads), (lambda x: x.sum(-2) + bias)
    return (lambda x: x.unflatten(-1, (-1, width))), (lambda x: x.flatten(-2))


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _instead(value: Tensor, tensor: Tensor) -> Tensor:
    return value
