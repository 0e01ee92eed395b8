"""What a training says: a bar on a terminal, a line of JSON a look, and TensorBoard's files."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import torch

JSONL = "log.jsonl"


class Log:
    """Of one training; a rank that does not lead says nothing.

    Args:
        out: the folder of `log.jsonl`; None = no files.
        total: steps of the training.
        every: steps between two lines; a line has the mean loss since the last one.
        tensorboard: whether to write `out/tensorboard` too.
        leads: whether this rank speaks.
        device: whose memory is watched.
    """

    def __init__(
        self, out: Path | None, total: int, every: int, *, tensorboard: bool, leads: bool, device: torch.device
    ) -> None:
        self.out, self.total, self.every = (out if leads else None), total, every
        self.tensorboard, self.leads, self.device = tensorboard, leads, device
        self._open = ExitStack()
        self._file: Any = None
        self._writer: Any = None
        self._bar: Any = None
        self._losses: list[float] = []
        self._tokens, self._since = 0, time.perf_counter()

    def __enter__(self) -> Self:
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            self._file = self._open.enter_context((self.out / JSONL).open("a", encoding="utf-8"))
            if self.tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = self._open.enter_context(SummaryWriter(str(self.out / "tensorboard")))
        if self.leads and sys.stderr.isatty():
            self._bar = self._open.enter_context(_bar())
            self._task = self._bar.add_task("training", total=self.total, loss="", speed="", memory="")
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def step(self, step: int, epoch: int, loss: float, tokens: int, **besides: float) -> None:
        """One more step is done: its loss, how many tokens all ranks read, and what else is known of it."""
        self._losses.append(loss)
        self._tokens += tokens
        if step % self.every and step != self.total:
            return
        now = time.perf_counter()
        speed = self._tokens / max(now - self._since, 1e-9)
        mean = sum(self._losses) / len(self._losses)
        memory = memory_bytes(self.device)
        self.write(step, epoch=epoch, loss=mean, tokens_per_second=round(speed, 1), memory=memory, **besides)
        if self._bar is not None:
            shown = {"loss": f"{mean:.4f}", "speed": f"{speed:,.0f}", "memory": f"{memory / 2**20:,.0f}"}
            self._bar.update(self._task, completed=step, **shown)
        self._losses, self._tokens, self._since = [], 0, now

    def write(self, step: int, **values: Any) -> None:
        """One line, and the numbers in it for TensorBoard."""
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        if self._writer is not None:
            for name, value in flat(values).items():
                self._writer.add_scalar(name, value, step)


def flat(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers, those in a dict by its name and theirs."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{inner}": number for inner, number in flat(value).items()}
        elif isinstance(value, int | float):
            found[name] = float(value)
    return found


def memory_bytes(device: torch.device) -> int:
    """The most that was in use so far: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    texts = [TextColumn("loss {task.fields[loss]}"), TextColumn("{task.fields[speed]} tokens/s")]
    memory = TextColumn("{task.fields[memory]} MB")
    return Progress(
        BarColumn(), MofNCompleteColumn(), *texts, memory, TimeRemainingColumn(), console=Console(stderr=True)
    )
