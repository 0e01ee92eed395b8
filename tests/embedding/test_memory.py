"""What is held and not used goes back to the system, and only when there may be much of it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from minitrans.embedding import Encoder, memory

MB = 1024 * 1024
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
glibc = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)


@linux
def test_trims_only_past_the_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    held = 1000 * MB
    trims: list[int] = []

    class Library:
        @staticmethod
        def malloc_trim(pad: int) -> None:
            nonlocal held
            trims.append(held)
            held -= 100 * MB

    monkeypatch.setattr(memory, "_held", lambda: held)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library)
    heap = memory.Heap()
    heap.settle()
    held += memory.SLACK
    heap.settle()
    assert trims == []
    held += 1
    heap.settle()
    assert trims == [1000 * MB + memory.SLACK + 1]
    heap.settle()  # 28 MB above the first level, which is the new one
    assert len(trims) == 1
    held -= 500 * MB  # the level falls with what is needed
    heap.settle()
    held += memory.SLACK + 1
    heap.settle()
    assert len(trims) == 2


@linux
def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    held = 0
    monkeypatch.setattr(memory, "_held", lambda: held)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    heap = memory.Heap()
    for _ in range(3):
        heap.settle()
        held += 2 * memory.SLACK


HOLES = """
import numpy as np
from minitrans.embedding import memory

MB = 1024 * 1024
del_at_once = np.ones(30 * MB, dtype=np.uint8)  # freed, it tells glibc to put what is smaller on its heap
del del_at_once
heap = memory.Heap()
memory.SLACK = 10 * MB
heap.settle()
before = memory._held()
blocks, pins = [], []
for _ in range(200):
    blocks.append(np.ones(MB, dtype=np.uint8))
    pins.append(np.ones(3000, dtype=np.uint8))  # keeps the heap from shrinking
blocks.clear()
left = memory._held()
assert left > before + 20 * MB, "there are no holes: this test proves nothing"
heap.settle()
assert memory._held() < left - 15 * MB
assert all(pin.all() for pin in pins)
"""


@glibc
def test_holes_of_the_heap_go_back() -> None:
    # in a process of its own: the heap of this one may have room for all of it; there glibc keeps what is freed, whatever it learns
    glibc = {"MALLOC_MMAP_THRESHOLD_": str(32 * MB), "MALLOC_TRIM_THRESHOLD_": str(1024 * MB), "MALLOC_ARENA_MAX": "1"}
    subprocess.run([sys.executable, "-c", HOLES], check=True, env={**os.environ, **glibc})


@linux
def test_the_encoder_settles_after_each_batch(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(memory.Heap, "settle", lambda self: calls.append(1))
    Encoder(body).encode(["a"] * 10, batch_size=4)
    assert len(calls) == 3
