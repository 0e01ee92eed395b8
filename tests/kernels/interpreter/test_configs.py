"""Tiles: the opt-in search takes the fastest that fits, once for calls alike; `use_tiles` puts others in the table's place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from minitrans_kernels import attention, use_tiles
from minitrans_kernels.attention import configs, launch
from minitrans_kernels.attention.configs import Configuration

from tests.kernels.interpreter.cases import attention_args

START = Configuration(64, 64, 4, 2)


def test_neighbours_differ_in_one_number():
    found = list(configs.neighbours(START))
    assert found[0] == START
    assert len(set(found)) == len(found) == 8
    assert all(sum(a != b for a, b in zip(START, one, strict=True)) == 1 for one in found[1:])


def test_the_fastest_wins_and_is_remembered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(configs, "_FOUND", {})
    timed: list[Configuration] = []

    def time(configuration: Configuration) -> float:
        timed.append(configuration)
        return {128: float("inf"), 32: 1.0}.get(configuration.block_n, 2.0)

    def tuned(lengths: tuple[int, int]) -> Configuration:
        return configs.fastest(attention_args(lengths=lengths), "forward", START, time)

    assert tuned((19, 37)) == Configuration(64, 32, 4, 2)
    count = len(timed)
    assert tuned((20, 40)) == Configuration(64, 32, 4, 2)
    assert len(timed) == count
    tuned((20, 80))
    assert len(timed) == 2 * count


def test_it_is_opt_in_and_for_devices(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(configs, "fastest", lambda *given: None)
    args = attention_args()
    for asked in ("0", "1"):
        monkeypatch.setenv("MINITRANS_AUTOTUNE", asked)
        chosen = configs.tuned(args, "forward", lambda configuration: None)
        assert chosen == configs.choose(args, "forward")  # a CPU tensor


def test_tiles_of_ones_own(monkeypatch: pytest.MonkeyPatch):
    kernel, ran = launch.forward_kernel, []

    class Spy:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            def run(*given: Any, **options: Any) -> None:
                ran.append((options["block_m"], options["block_n"], options["num_warps"], options["num_stages"]))
                kernel[grid](*given, **options)

            return run

    q = torch.randn(1, 1, 40, 16)
    expected = attention(q, q, q)
    monkeypatch.setattr(launch, "forward_kernel", Spy())
    with use_tiles(forward=(16, 16, 4, 2)):
        torch.testing.assert_close(attention(q, q, q), expected)
        with use_tiles(forward=(32, 16, 8, 1)):
            torch.testing.assert_close(attention(q, q, q), expected)
        attention(q, q, q)
    attention(q, q, q)
    of_the_table = configs.choose(attention_args(lengths=(40, 40)), "forward")
    assert ran == [(16, 16, 4, 2), (32, 16, 8, 1), (16, 16, 4, 2), of_the_table[:4]]
