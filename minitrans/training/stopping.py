"""The best evaluation so far, when to give up, and signals that ask to end."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any, Self

from minitrans.errors import nearest


class Best:
    """The best value of one metric, and how many evaluations ago it was.

    Args:
        metric: its name.
        maximize: whether more of it is better.
        patience: evaluations without a better one after which to end; None = never.
    """

    def __init__(self, metric: str, maximize: bool, patience: int | None) -> None:
        self.metric, self.maximize, self.patience = metric, maximize, patience
        self.value: float | None = None
        self.step: int | None = None
        self.waited = 0

    def see(self, metrics: Mapping[str, float], step: int) -> bool:
        """Whether these are better than all before; a metric that is no number never is.

        Raises:
            ValueError: where the metric is not among them.
        """
        if self.metric not in metrics:
            raise ValueError(
                f"best={self.metric!r} is no metric of the evaluation; the nearest is {nearest(self.metric, metrics)}"
            )
        value = float(metrics[self.metric])
        sign = 1 if self.maximize else -1
        better = math.isfinite(value) and (self.value is None or sign * value > sign * self.value)
        if better:
            self.value, self.step, self.waited = value, step, 0
        else:
            self.waited += 1
        return better

    @property
    def found(self) -> tuple[int, float] | None:
        """Its step and its value."""
        return None if self.step is None or self.value is None else (self.step, self.value)

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return self.patience is not None and self.waited >= self.patience

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"value": self.value, "step": self.step, "waited": self.waited}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.value, self.step, self.waited = state["value"], state["step"], int(state["waited"])


class Signals:
    """SIGTERM and SIGINT as a wish to end after the step at hand; a second one ends at once, as without this.

    Outside the main thread, where Python has no signals, there is no such wish.
    """

    def __init__(self) -> None:
        self.received = 0  # the number of the signal
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
