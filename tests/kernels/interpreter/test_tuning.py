"""The opt-in search takes the fastest configuration that fits, once for calls alike."""

from __future__ import annotations

import pytest
from minitrans_kernels.attention import tuning
from minitrans_kernels.attention.configs import Configuration

from tests.kernels.interpreter.cases import problem

START = Configuration(64, 64, 4, 2)


def test_neighbours_differ_in_one_number():
    found = list(tuning.neighbours(START))
    assert found[0] == START
    assert len(set(found)) == len(found) == 8
    assert all(sum(a != b for a, b in zip(START, one, strict=True)) == 1 for one in found[1:])


def test_the_fastest_wins_and_is_remembered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tuning, "_found", {})
    timed: list[Configuration] = []

    def time(run: tuning.Run, configuration: Configuration) -> float:
        timed.append(configuration)
        return {128: float("inf"), 32: 1.0}.get(configuration.block_n, 2.0)

    def tuned(lengths: tuple[int, int]) -> Configuration:
        return tuning.tune(problem(lengths=lengths), "forward", START, lambda configuration: None, time)

    assert tuned((19, 37)) == Configuration(64, 32, 4, 2)
    count = len(timed)
    assert tuned((20, 40)) == Configuration(64, 32, 4, 2)
    assert len(timed) == count
    tuned((20, 80))
    assert len(timed) == 2 * count


def test_it_is_opt_in_and_for_devices(monkeypatch: pytest.MonkeyPatch):
    assert not tuning.tuning(problem())
    monkeypatch.setenv("MINITRANS_AUTOTUNE", "1")
    assert not tuning.tuning(problem())  # a CPU tensor
