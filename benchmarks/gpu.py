"""Everything that needs a GPU, in one command and under nine minutes: the tests, then attention, models, layers.

    python -m benchmarks.gpu

Each part is a process of its own: one that loses the device is started again and goes on after what it died of. First of all
several processes fill the caches of the compilers side by side. Each part starts no case after its time; what is then left of the
whole goes to the parts again, the most important first. Every result is on disk as soon as it is known.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.measuring import Budget
from benchmarks.options import Results, Small
from benchmarks.record import CRASHED, RESULTS, ROOT, head, result_file
from minitrans.cli import errors
from minitrans.files import read_json, write_json

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
TESTS = ("tests/kernels/test_gpu_attention.py", "tests/kernels/test_gpu_layers.py")
SHARES = {"tests": 0.24, "compilers": 0.15, "attention": 0.31, "models": 0.2, "layers": 0.1}  # of the whole time
_LONGEST_CASE = 25.0  # seconds; a part gets so much less, because it ends the case it is in
_MOST_STARTS = 6


@dataclass(frozen=True)
class Ran:
    """How a part ended: `code` is None where it was stopped for time."""

    code: int | None
    seconds: float
    tail: str


def begin(arguments: Sequence[str], log: Path, **variables: str) -> subprocess.Popen[bytes]:
    """Starts Python in the root of the repository, which need not be installed; its output goes into a file."""
    paths = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": paths, **variables}
    command = [sys.executable, *arguments]
    with log.open("w") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=environment)


def end(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Waits for so long, then kills; the exit code, or None where it was killed."""
    try:
        return process.wait(max(seconds, 1))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def run(arguments: Sequence[str], seconds: float, log: Path) -> Ran:
    """Runs Python in the root of the repository, its output into a file; stops it after so many seconds."""
    start = time.monotonic()
    process = begin(arguments, log)
    code = end(process, seconds)
    lines = log.read_text(errors="replace").splitlines()
    return Ran(code, round(time.monotonic() - start, 1), "\n".join(lines[-12:]))


def fill_caches(count: int, seconds: float, logs: Path) -> float:
    """Runs every case that compiles something, in `count` processes and some more; returns the seconds it took."""
    start = time.monotonic()
    commands = [["-m", "benchmarks.models", "--compile-only"]]
    for name, share in (("layers", max(count // 4, 1)), ("attention", count)):
        commands += [["-m", f"benchmarks.{name}", "--compile-only", f"{n}/{share}"] for n in range(share)]
    # about as many processes as cores: one thread of the compiler each
    one_thread = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    running = [begin(command, logs / f"compilers-{n}.log", **one_thread) for n, command in enumerate(commands)]
    for process in running:  # what one has compiled is kept though it be killed
        end(process, seconds - (time.monotonic() - start))
    return round(time.monotonic() - start, 1)


def run_benchmark(name: str, seconds: float, path: Path, logs: Path, extra: Sequence[str]) -> list[Ran]:
    """A benchmark that writes this file, started again where it lost the device, until it is through or its time is over."""
    budget = Budget.of(seconds)
    ran: list[Ran] = []
    while budget.left > 1 and len(ran) < _MOST_STARTS:
        arguments = ["-m", f"benchmarks.{name}", "--results", str(path), "--resume", *extra]
        arguments += ["--seconds", str(max(budget.left - _LONGEST_CASE, 1))]
        ran.append(run(arguments, budget.left, logs / f"{name}-{len(ran)}.log"))
        if ran[-1].code != CRASHED and (ran[-1].code or 0) >= 0:  # negative: it died of a signal
            break
    return ran


def is_complete(path: Path) -> bool:
    """Whether a benchmark's file exists and nothing was cut."""
    if not path.exists():
        return False
    content = read_json(path)
    return bool(content["finished"]) and not any(row["status"] == "cut" for row in content["rows"])


@app.command()
def main(
    seconds: Annotated[float, typer.Option(min=10, help="What all of it may take.")] = 530,
    small: Small = False,
    results: Results = RESULTS,
    tests: Annotated[bool, typer.Option(help="Run the GPU tests first.")] = True,
    processes: Annotated[
        int | None, typer.Option(min=1, help="That compile side by side; default: by the number of cores.")
    ] = None,
) -> None:
    """Run the GPU tests and the three kernel benchmarks, and write dated JSON files, in place of those of an earlier run today.

    Exits with 1 where a test failed or a part ended with an error.

    Examples:

        python -m benchmarks.gpu

        python -m benchmarks.gpu --small --no-tests
    """
    budget = Budget.of(seconds)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = ("attention", "models", "layers")
    target, *files = (result_file(results.resolve(), name, device) for name in ("gpu", *names))
    paths = dict(zip(names, files, strict=True))
    logs = Path(tempfile.mkdtemp(prefix="minitrans-benchmarks-"))
    typer.echo(f"logs in {logs}")
    parts: dict[str, object] = {}
    content = head("gpu", device, parts=parts)
    ok = True

    def note(name: str, value: object) -> None:
        parts[name] = value
        write_json(target, content)

    workers = ["-n", "10"] if device.type == "cuda" and find_spec("xdist") is not None else []
    if tests:
        # warnings of other versions of torch than the tested one are no failure here
        command = ["-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider", *workers, *TESTS]
        done = run(command, SHARES["tests"] * seconds, logs / "tests.log")
        ok = done.code == 0
        note("tests", {"code": done.code, "seconds": done.seconds, "tail": done.tail})
        typer.echo(f"tests\t{done.seconds} s\tcode {done.code}\t{done.tail.splitlines()[-1] if done.tail else ''}")
    if device.type == "cuda" and not small:
        count = processes or max(min((os.cpu_count() or 2) - 4, 12), 1)
        note("compilers", {"seconds": fill_caches(count, SHARES["compilers"] * seconds, logs), "processes": count})
        typer.echo(f"compilers\t{parts['compilers']}")
    extra = ["--small"] if small else []
    for turn in ("first", "again"):
        for name, path in paths.items():
            if turn == "again" and (is_complete(path) or budget.left < 2 * _LONGEST_CASE):
                continue
            share = SHARES[name] * seconds + _LONGEST_CASE if turn == "first" else budget.left
            ran = run_benchmark(name, min(share, budget.left), path, logs, extra)
            ok = ok and all(one.code in (0, None) for one in ran[-1:])  # None: its time was over
            note(f"{name}, {turn}", [{"code": one.code, "seconds": one.seconds, "tail": one.tail} for one in ran])
            typer.echo(f"{name}\t{sum(one.seconds for one in ran):.0f} s\tcodes {[one.code for one in ran]}\t{path}")
    typer.echo(f"{seconds - budget.left:.0f} s in all")
    if not ok:
        raise typer.Exit(1)


if __name__ == "__main__":
    sys.exit(errors.run(app, "python -m benchmarks.gpu"))
