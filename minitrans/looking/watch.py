"""The hooks of a `with`: they know which layer runs, show what comes past, and put in what is to stand there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from minitrans.attention.variant import Variant
from minitrans.layers.block import Block
from minitrans.layers.multi_head_attention import AttentionOutput, MultiHeadAttention
from minitrans.looking.choice import Chosen
from minitrans.looking.seen import Seen
from minitrans.looking.sites import Site
from minitrans.looking.tap import Tap

Edit = Callable[[Tensor], Tensor]


class Watch:
    """The hooks, and which layer runs."""

    def __init__(
        self, read: Mapping[Site, Any], edits: Mapping[Site, Edit], seen: Seen, chosen: Chosen, gradients: bool
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
                places[site.module, site.side].append(site)
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
