"""What an attention costs beside the exact one, by length: time, memory, counted operations, and how they grow."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import takewhile
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from minitrans.attention.context import Context
from minitrans.lab.bench import Bench
from minitrans.lab.flops import counted
from minitrans.lab.specs import Subject

Costs = dict[str, list[float]]
_weak_reference: Any = StorageWeakRef
_MEASURES = ("forward", "both", "memory", "flops")


def cost(
    bench: Bench, subject: Subject, seed: int, *, shortest: int = 128, longest: int = 1024, repeats: int = 5
) -> dict[str, Any]:
    """The attention of one layer, projections included, for one text of random vectors; the exact one in turns with it.

    Args:
        bench: whose first layer it is.
        subject: in that layer.
        seed: of the variant, and of the vectors.
        shortest: length in tokens; then twice as many, ...
        longest: ... up to this.
        repeats: of each time; what is kept is the median.

    Returns:
        "lengths"; of the variant ("own") and the exact attention ("exact") lists: "forward" and "both" (with backward),
        seconds; "memory", the most bytes of tensors alive at once in both, weights and input apart; "flops" of both, in
        products of matrices. "exponents" of the length in the last three; "efficient", the shortest length from which on
        the variant takes less than the exact attention, None where it never does. A length that the variant refuses ends
        the lists; "ends" says why.

    Raises:
        ValueError: where the variant refuses every length.
    """
    exact = copy.deepcopy(bench.attentions[0])
    lengths, costs, ends = [], {"own": _nothing(), "exact": _nothing()}, ""
    generator = torch.Generator().manual_seed(seed)
    with bench.swapped(subject.seeded(seed), seed):
        blocks = {"own": bench.attentions[0], "exact": exact}
        for length in takewhile(lambda length: length <= longest, (shortest << power for power in range(64))):
            x = torch.randn(1, length, bench.encoder.model.config.hidden_size, generator=generator).to(
                bench.encoder.device
            )
            try:
                _run(blocks["own"], x, True)
            except Exception as error:  # a variant is anybody's code; what it says is kept
                ends = f"{length} tokens: {type(error).__name__}: {error}"
                break
            lengths.append(length)
            for name, block in blocks.items():
                costs[name]["memory"].append(_memory(block, x))
                costs[name]["flops"].append(counted([block], partial(_run, block, x, True)))
            for measure, backward in (("forward", False), ("both", True)):
                times: dict[str, list[float]] = {name: [] for name in blocks}
                for _ in range(repeats):
                    for name, block in blocks.items():
                        times[name].append(_seconds(block, x, backward))
                for name in blocks:
                    costs[name][measure].append(statistics.median(times[name]))
    if not lengths:
        raise ValueError(ends)
    return {
        "lengths": lengths, **costs, "ends": ends,
        "exponents": {name: exponent(lengths, costs["own"][name]) for name in _MEASURES},
        "efficient": {name: efficient(lengths, costs["own"][name], costs["exact"][name]) for name in _MEASURES},
    }  # fmt: skip


def exponent(lengths: Sequence[int], values: Sequence[float]) -> float | None:
    """p of values ~ length^p, least squares of the logarithms of the last three; None where there are fewer than two."""
    points = [(log(length), log(value)) for length, value in zip(lengths, values, strict=True) if value > 0][-3:]
    if len(points) < 2:
        return None
    across, up = (statistics.fmean(axis) for axis in zip(*points, strict=True))
    return sum((x - across) * (y - up) for x, y in points) / sum((x - across) ** 2 for x, _ in points)


def efficient(lengths: Sequence[int], own: Sequence[float], exact: Sequence[float]) -> int | None:
    """The shortest length from which on all of `own` are below `exact`."""
    below = [*takewhile(lambda each: each[1] < each[2], reversed([*zip(lengths, own, exact, strict=True)]))]
    return below[-1][0] if below else None


def _nothing() -> Costs:
    return {measure: [] for measure in _MEASURES}


def _run(block: nn.Module, x: Tensor, backward: bool) -> None:
    x = x.detach().requires_grad_(backward)
    context = Context(positions=_places(x.shape[1], x.device))
    with torch.set_grad_enabled(backward):
        output = block(x, context, None).output
        if backward:
            output.sum().backward()
            block.zero_grad()


@lru_cache(maxsize=1)
def _places(length: int, device: torch.device) -> Tensor:
    """(1, T), an input too: made once for each length."""
    return torch.arange(length, device=device)[None]


def _seconds(block: nn.Module, x: Tensor, backward: bool) -> float:
    _wait(x)
    start = time.perf_counter()
    _run(block, x, backward)
    _wait(x)
    return time.perf_counter() - start


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def _memory(block: nn.Module, x: Tensor) -> float:
    with _Alive([x, _places(x.shape[1], x.device), *block.parameters(), *block.buffers()]) as alive:
        _run(block, x, True)
    return float(alive.most)


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that operations make, while they live; not what a kernel takes inside."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = {_weak_reference(tensor.untyped_storage()).cdata for tensor in known}
        self.alive: dict[int, tuple[Any, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation, and looks at what it made."""
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                reference = _weak_reference(storage)
                if reference.cdata not in self.known:
                    self.alive[reference.cdata] = (reference, storage.nbytes())
        self.alive = {place: kept for place, kept in self.alive.items() if not kept[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return found
