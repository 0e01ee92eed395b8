"""`embed` into a file: every process adds its windows to the parts, and the first one joins them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minitrans.cli.line_file import LineFile
from minitrans.cli.parts import Parts, Shape
from minitrans.cli.vector_files import write_vectors
from minitrans.cli.world import World

if TYPE_CHECKING:
    from minitrans.embedding import Encoder

LOOK_AGAIN = 0.2  # seconds
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Job:
    """One output.

    Attributes:
        lines: the texts.
        parts: where the work gathers.
        world: who this process is.
        wait: seconds after which the first process gives up on the others, counted from their last sign of life.
    """

    lines: LineFile
    parts: Parts
    world: World
    wait: float


def describe(lines: LineFile, encoder: Encoder, options: Mapping[str, Any], backend: str) -> dict[str, Any]:
    """The manifest: all that the bytes of a window depend on."""
    import torch

    from minitrans.embedding import fingerprint

    device = encoder.model.device
    on_gpu = device.type == "cuda"
    return {
        "input": lines.identity(),
        "model": fingerprint(encoder),
        "options": {
            **options,
            "backend": backend,
            "precision": encoder.precision,
            "model dtype": str(encoder.model.dtype).removeprefix("torch."),
            "machine": torch.cuda.get_device_name(device) if on_gpu else torch.backends.cpu.get_cpu_capability(),
            "device": device.type,
        },
        "vectors": {
            "dimension": encoder.dimension_of(options["pooling"]),
            "dtype": str(encoder.vector_dtype).removeprefix("torch."),
        },
        "versions": {name: version(name) for name in ("minitrans", "numpy", "tokenizers", "torch")},
    }


def add_windows(job: Job, encoder: Encoder, options: Mapping[str, Any], shape: Shape, advance: Advance) -> int:
    """Computes the windows of this process that are not there yet; returns how many texts they have."""
    windows = list(enumerate(job.lines.windows))
    mine = [(number, window) for number, window in windows if job.world.owns(number)]
    todo = [(number, window) for number, window in mine if not job.parts.has(number, window, shape)]
    advance(sum(window.lines for _, window in mine) - sum(window.lines for _, window in todo))
    texts = (job.lines.read(window) for _, window in todo)
    blocks = encoder.encode_windows(texts, advance=advance, **options)
    for (number, _), block in zip(todo, blocks, strict=True):
        job.parts.write(number, block.numpy())
    return sum(window.lines for _, window in todo)


def await_others(job: Job, shape: Shape) -> None:
    """Returns when every window is there. Raises ValueError when nothing has been added for `wait` seconds."""
    windows = list(enumerate(job.lines.windows))
    missing = [(number, window) for number, window in windows if not job.parts.has(number, window, shape)]
    deadline = time.monotonic() + job.wait
    while missing:
        left = [(number, window) for number, window in missing if not job.parts.has(number, window, shape)]
        if len(left) < len(missing):
            missing, deadline = left, time.monotonic() + job.wait
        elif time.monotonic() > deadline:
            ranks = sorted({number % job.world.size for number, _ in missing}) if job.world.shared else []
            whose = f" (of rank {', '.join(map(str, ranks[:8]))})" if ranks else ""
            raise ValueError(
                f"{job.parts.name}: expected {len(windows)} windows, {len(missing)} are missing{whose}; "
                "run embed with --resume for these, then with --join"
            )
        else:
            time.sleep(min(LOOK_AGAIN, job.wait))


def join(job: Job, shape: Shape, target: Path) -> None:
    """Makes the output of the parts, in one step, and removes them."""
    size = (job.lines.lines, shape.dimension)
    with job.parts.publishing() as path:
        write_vectors(path, target.suffix, _blocks(job, shape, target.suffix), size, shape.numpy)
    job.parts.clear()


def _blocks(job: Job, shape: Shape, kind: str) -> Iterator[tuple[list[str], np.ndarray]]:
    for number, window in enumerate(job.lines.windows):
        yield [] if kind == ".npy" else job.lines.read(window), job.parts.read(number, window, shape)
