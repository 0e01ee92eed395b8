"""The contract test that ships with the library: is this attention right in everything that it says it can do?"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from minitrans.testing.behaviour import run_behaviour
from minitrans.testing.block import run_in_block
from minitrans.testing.cases import Fixed
from minitrans.testing.exact import run_exact
from minitrans.testing.subject import Log, Subject, expect, subjects

# what an attention may be asked for -> how the checks of it end, around softmax attention or of a mechanism
FORMS = {
    "padded": ("padded, plain",),
    "packed": ("packed, plain",),
    "causal": ("causal, T = S: what is forbidden changes nothing",),
    "patterns": ("rule, T = S: what is forbidden changes nothing",),
    "bias": ("a bias",),
    "dropout": ("dropout, padding", "dropout"),
    "probabilities": ("padding, weights", "probabilities"),
    "cache": ("in a block, token by token",),
}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class AttentionReport:
    """What `check_attention` ran.

    Attributes:
        passed: the checks that were run and held.
        refused: those that were refused, each with the reason: what is not supported, or sizes that do not fit the variant.
    """

    passed: tuple[str, ...]
    refused: tuple[str, ...]

    @property
    def support(self) -> dict[str, str]:
        """By form of `FORMS`: "" where the checks of it held, else why it was refused."""
        found = {}
        for form, ends in FORMS.items():
            held = any(name.endswith(tuple(f", {end}" for end in ends)) for name in self.passed)
            reasons = (name.partition(f", {end}: ")[2] for name in self.refused for end in ends)
            found[form] = "" if held else next(filter(None, reasons), "not checked")
        return found

    def __str__(self) -> str:
        return f"{len(self.passed)} checks passed, {len(self.refused)} refused as not supported"


def check_attention(
    attention: Any,
    *,
    device: torch.device | str = "cpu",
    dtypes: Sequence[torch.dtype] = DTYPES,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_width: int | None = None,
    progress: Callable[[str], object] | bool = False,
) -> AttentionReport:
    """Checks an attention against what it promises.

    A backend is compared with the oracle `eager`, forward and gradients, over masks, biases, packed batches, dropout, empty
    rows, grouped heads and dtypes; the oracle itself with loops over single pairs. A variant without `compute` is compared in
    the same way on every backend, under the mask and bias that its own `restrict` gives. One with `compute` has no right
    answer to be compared with (unless it says `exact = True`): it must keep what every attention keeps (`testing.behaviour`),
    and so must all variants, also in a block. What `supports` refuses is not run; a NotSupportedError is a refusal too.

    Args:
        attention: a backend, by name or as an object; or a variant, in any form that `attention.specs` lists.
        device: where to run.
        dtypes: the types to run, of float64, float32, bfloat16, float16.
        heads: H that a variant is made for; None = several.
        kv_heads: G, likewise.
        head_width: K, likewise.
        progress: called with a line for each subject; True prints it on stderr.

    Raises:
        AssertionError: naming the check that failed, what was compared and how far it was off.
        TypeError: for what is no attention; it says what a variant has.
        ValueError: for an unknown name, or sizes that the variant cannot be built for.
    """
    say = (lambda line: print(line, file=sys.stderr)) if progress is True else progress or (lambda line: None)
    log = Log()
    for subject in subjects(attention, torch.device(device), Fixed(heads, kv_heads, head_width)):
        say(_run(subject.in_widest(), dtypes, log))
    return AttentionReport(tuple(log.passed), tuple(log.refused))


def _run(subject: Subject, dtypes: Sequence[torch.dtype], log: Log) -> str:
    """Runs what is to be run of a subject, and says how much that was."""
    passed, refused, start = len(log.passed), len(log.refused), time.perf_counter()
    first = subject.backend in ("eager", "auto")  # of those that run the same hooks
    if subject.exact:
        run_exact(subject, dtypes, log)
    if subject.spec is not None:
        if first:
            run_behaviour(subject, dtypes, log)
        run_in_block(subject, dtypes, log)
    new, refusals, spent = log.passed[passed:], log.refused[refused:], time.perf_counter() - start
    if subject.spec is None or first:
        ran = any(name.startswith(f"{subject.name}, plain") for name in new)
        expect(ran, f"even the plainest call is refused: {refusals[:1]}")
    return f"{subject.name}: {len(new)} checks passed, {len(refusals)} refused, {spent:.1f} s"
