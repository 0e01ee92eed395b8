"""Compiles the launches of many calls, in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import NamedTuple

from minitrans_kernels.inspection.compilation import Binary, compile_launch
from minitrans_kernels.inspection.faults import faults
from minitrans_kernels.inspection.recording import Launch, recording

Case = tuple[str, Callable[[], None]]


class Finding(NamedTuple):
    """One compiled launch: the case that needed it first, and what is wrong with it; no binary where it did not compile."""

    case: str
    launch: Launch
    binary: Binary | None
    faults: tuple[str, ...]


def launches(cases: Iterable[Case], architectures: Iterable[str]) -> list[tuple[str, Launch]]:
    """(name of the case, launch), each distinct launch once."""
    found: dict[str, tuple[str, Launch]] = {}
    for name, call in cases:
        for architecture in architectures:
            with recording(architecture) as recorded:
                call()
            for launch in recorded:
                found.setdefault(launch.key, (name, launch))
    return list(found.values())


def survey(work: list[tuple[str, Launch]], processes: int) -> Iterator[Finding]:
    """Compiles each launch and looks for faults, in the order given."""
    # a forked worker finds the launches where they are: kernels cannot be sent to another process
    _work[:] = [launch for _, launch in work]
    with multiprocessing.get_context("fork").Pool(processes) if processes > 1 else nullcontext() as pool:
        results = (map if pool is None else pool.imap)(_compile, range(len(work)))
        yield from (Finding(name, launch, *result) for (name, launch), result in zip(work, results, strict=True))


_work: list[Launch] = []


def _compile(number: int) -> tuple[Binary | None, tuple[str, ...]]:
    launch = _work[number]
    try:
        binary = compile_launch(launch)
    except Exception as error:  # the compiler raises of many kinds, and the survey goes on
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return None, (f"does not compile: {type(cause).__name__}: {str(cause).strip().splitlines()[0]}",)
    return binary, faults(launch, binary)
