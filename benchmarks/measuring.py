"""How the kernel benchmarks measure: interleaved runs, CUDA graphs, peak memory, and the limits of the machine.

Calls of different providers take turns, so that a clock that drifts slows all of them. On a GPU each call is timed with CUDA
events after the L2 cache was overwritten: what a caller sees, launches included where they are slower than that overwriting.
`graph_ms` replays a CUDA graph of several calls: the device alone, with the cache as the previous call left it.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

Call = Callable[[], object]
LEAST_RUNS, MOST_RUNS = 7, 100
_FLUSH_BYTES = 256 * 2**20  # several times the L2 cache of any GPU so far
_CALLS_A_GRAPH = 5


@dataclass
class Budget:
    """Seconds that a command may still take."""

    seconds: float
    started: float

    @classmethod
    def of(cls, seconds: float) -> Budget:
        """From now on."""
        return cls(seconds, time.monotonic())

    @property
    def left(self) -> float:
        """Negative when overdrawn."""
        return self.seconds - (time.monotonic() - self.started)


def quantiles(values: list[float]) -> dict[str, float]:
    """Quartiles and how many runs they are of."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"low": low, "median": median, "high": high, "runs": len(values)}


def interleaved_ms(calls: Mapping[str, Call], device: torch.device, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of every run of every call, taking turns for about `seconds` in total. Warms up first."""
    names = list(calls)
    if not names:
        return {}
    for call in calls.values():
        call()
    once = _round(calls, names, device)
    runs = min(max(int(seconds * 1e3 / max(sum(once.values()), 1e-3)), LEAST_RUNS), MOST_RUNS)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(runs):
        turn = number % len(names)
        for name, ms in _round(calls, names[turn:] + names[:turn], device).items():
            found[name].append(ms)
    return found


def _round(calls: Mapping[str, Call], order: list[str], device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        found = {}
        for name in order:
            start = time.perf_counter()
            calls[name]()
            found[name] = (time.perf_counter() - start) * 1e3
        return found
    flush = _flush_buffer(device)
    events = {name: (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for name in order}
    for name in order:
        flush.zero_()
        events[name][0].record()
        calls[name]()
        events[name][1].record()
    torch.cuda.synchronize(device)
    return {name: start.elapsed_time(end) for name, (start, end) in events.items()}


@cache
def _flush_buffer(device: torch.device) -> Tensor:
    return torch.empty(_FLUSH_BYTES // 4, dtype=torch.int32, device=device)


def graph_ms(make: Callable[[], Call], device: torch.device, replays: int = 9) -> list[float]:
    """Milliseconds a call of the function that `make` returns, replayed in a CUDA graph; one figure a replay.

    `make` runs on the stream that captures: a backward pass runs where its forward pass ran. A capture that fails may leave a
    stream that is still capturing behind, so what goes wrong is for the caller to report.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        call = make()
        for _ in range(2):
            call()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        for _ in range(_CALLS_A_GRAPH):
            call()
    graph.replay()
    found = []
    for _ in range(replays):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / _CALLS_A_GRAPH)
    del call
    graph.reset()
    return found


def graph_row(make: Callable[[], Call], device: torch.device) -> dict[str, object]:
    """`graph_ms` as entries of a row: its quartiles, or why there are none."""
    try:
        return {"graph_ms": quantiles(graph_ms(make, device))}
    except RuntimeError as error:
        if is_fatal(error) and "captur" not in str(error):
            raise
        return {"graph_ms": None, "graph_reason": first_line(error)}


def peak_bytes(call: Call, device: torch.device) -> int | None:
    """Bytes that the second of two calls holds at its worst beyond what was there before; None on a CPU, which does not count."""
    if device.type != "cuda":
        return None
    call()
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def limits(device: torch.device, *, small: bool) -> dict[str, float]:
    """What this machine can do now: TFLOP/s of a bf16 matrix product (float32 on a CPU), TB/s of a copy, both ways counted."""
    on_gpu = device.type == "cuda"
    side = 8192 if on_gpu and not small else 256
    dtype = torch.bfloat16 if on_gpu else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    source = torch.randn(2**28 if on_gpu and not small else 2**18, device=device)
    target = torch.empty_like(source)
    calls: dict[str, Call] = {
        "matmul": lambda: torch.mm(left, right),
        "copy": lambda: target.copy_(source),
    }
    ms = {name: statistics.median(times) for name, times in interleaved_ms(calls, device, 0.2).items()}
    return {
        "matmul_side": side,
        "matmul_tflops": 2 * side**3 / ms["matmul"] / 1e9,
        "copy_tb_per_s": 2 * source.numel() * source.element_size() / ms["copy"] / 1e9,
    }


def memory_mb(pid: int | str = "self") -> dict[str, float]:
    """The sizes in /proc/PID/status, in megabytes; none once the process has ended. Linux only."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {name: round(int(value.split()[0]) / 1024, 1) for name, value in pairs}


def first_line(error: BaseException) -> str:
    """What went wrong, for a table."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def is_fatal(error: BaseException) -> bool:
    """Whether the process has lost its device: nothing that runs on it afterwards can be believed."""
    text = str(error)
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in text or "Triton Error [CUDA]" in text


class Quiet(warnings.catch_warnings):
    """No warnings inside: a provider that is refused says so by an error, which is reported."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
