"""`minitrans embed` on many short texts: its speed, whether its memory stays flat, and whether a killed run can go on.

    python -m benchmarks.embed --json

The command runs in a process of its own, whose resident memory is read every few seconds. Then the same is killed (kill -9) in
the middle and run again with --resume: the two files must be equal, byte for byte. Linux only: it reads /proc.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.measuring import memory_mb
from benchmarks.options import AsJson, Results
from benchmarks.record import RESULTS, result_file, save
from minitrans.cli import errors, options

WORDS = """the a of in was who where cat dog city film good bad night train late snow water music old new small river house
people time year work day world life hand part place case week company system program question government number"""
POLL = 0.05  # seconds between looks at whether the process has ended

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass
class Watched:
    """A finished run of the command.

    Attributes:
        code: its exit status.
        seconds: from start to end.
        peak: the most megabytes that were resident, as the kernel counted them.
        samples: (seconds since the start, windows that were done, megabytes resident), in order.
    """

    code: int
    seconds: float
    peak: float
    samples: list[tuple[float, int, float]] = field(default_factory=list)


def write_texts(file: Path, count: int) -> None:
    """`count` lines of 3 to 12 words each, always the same."""
    generator = random.Random(0)
    with file.open("w", encoding="utf-8") as stream:
        for _ in range(count):
            stream.write(" ".join(generator.choices(WORDS.split(), k=generator.randint(3, 12))) + "\n")


def watch(arguments: list[str], parts: Path, every: float, kill_at: int | None = None) -> Watched:
    """Runs `minitrans embed ARGUMENTS`; with `kill_at` it is killed as soon as that many windows are done."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "minitrans", "embed", *arguments], stdout=subprocess.DEVNULL)
    samples: list[tuple[float, int, float]] = []
    peak, due = 0.0, every
    while process.poll() is None:
        status = memory_mb(process.pid)
        done = len(list(parts.glob("[0-9]*.npy")))
        now = time.perf_counter() - start
        peak = max(peak, status.get("VmHWM", 0.0))
        if now >= due:
            samples.append((round(now, 1), done, status.get("VmRSS", 0.0)))
            due += every
        if kill_at is not None and done >= kill_at:
            process.kill()
        time.sleep(POLL)
    return Watched(process.wait(), time.perf_counter() - start, peak, samples)


def means_of_quarters(samples: list[tuple[float, int, float]]) -> list[float]:
    """Mean megabytes in each quarter of the samples between the first window and the last sample."""
    steady = [megabytes for _, windows, megabytes in samples if windows]
    bounds = [len(steady) * n // 4 for n in range(5)]
    return [round(sum(steady[a:b]) / (b - a), 1) for a, b in pairwise(bounds) if b > a]


@app.command()
def embed(
    texts: Annotated[int, typer.Option(min=5000, help="How many, of 3 to 12 words each.")] = 100_000,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="PATH_OR_NAME", help="Default: the extra demo's MiniLM.")
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between samples of the memory.")] = 5.0,
    kill: Annotated[bool, typer.Option(help="Kill a second run in the middle, resume it, compare.")] = True,
    as_json: AsJson = False,
    results: Results = RESULTS,
    threads: options.Threads = None,
) -> None:
    """Print texts a second, megabytes in each quarter of the run and at most, and what became of the killed run.

    Examples:

        python -m benchmarks.embed --texts 20000 --every 1

        python -m benchmarks.embed --json
    """
    from minitrans.cli.demo_steps import demo_folder

    target = result_file(results, "embed") if as_json else None
    source = str(demo_folder()) if model is None else model
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_texts(folder / "texts.txt", texts)
        common = [str(folder / "texts.txt"), "-m", source, *(["--threads", str(threads)] if threads else [])]
        whole = watch([*common, "-o", str(folder / "whole.npy")], folder / "whole.npy.parts", every)
        if whole.code:
            raise typer.Exit(whole.code)
        quarters = means_of_quarters(whole.samples)
        found: dict[str, Any] = {
            "texts": texts,
            "model": "all-MiniLM-L6-v2" if model is None else Path(model).name,
            "seconds": round(whole.seconds, 2),
            "texts_per_second": round(texts / whole.seconds, 1),
            "peak_mb": whole.peak,
            "mean_mb_by_quarter": quarters,
            "seconds_between_samples": every,
            "mb": [megabytes for _, _, megabytes in whole.samples],
            "windows": [windows for _, windows, _ in whole.samples],
        }
        typer.echo(f"{texts} texts\t{found['texts_per_second']} a second\t{found['seconds']} s")
        typer.echo(f"MB by quarter\t{' '.join(f'{mean:.0f}' for mean in quarters)}\tat most {whole.peak:.0f}")
        if kill:
            found["killed"] = kill_and_resume(common, folder, every)
            typer.echo("\t".join(f"{key} {value}" for key, value in found["killed"].items()))
    save(target, "embed", **found, threads=threads or os.cpu_count())
    if kill and not found["killed"]["equal"]:
        raise ValueError("the resumed run gave another file than the unbroken one")


def kill_and_resume(common: list[str], folder: Path, every: float) -> dict[str, Any]:
    """Kills a run when half of the windows are done and resumes it; says when, and whether the file is that of the whole run."""
    parts = folder / "broken.npy.parts"
    windows = _window_count(folder / "texts.txt")
    out = ["-o", str(folder / "broken.npy")]
    killed = watch([*common, *out], parts, every, kill_at=windows // 2)
    if killed.code != -signal.SIGKILL:
        raise ValueError(f"expected a run that can be killed, found one that ended with status {killed.code}")
    kept = len(list(parts.glob("[0-9]*.npy")))
    resumed = watch([*common, *out, "--resume"], parts, every)
    sums = [
        hashlib.sha256((folder / file).read_bytes()).hexdigest() if (folder / file).exists() else None
        for file in ("whole.npy", "broken.npy")
    ]
    return {
        "windows": windows,
        "kept": kept,
        "resumed": resumed.code,
        "equal": sums[0] == sums[1],
        "litter": sorted(path.name for path in folder.iterdir() if "broken" in path.name and path.suffix != ".npy"),
    }


def _window_count(file: Path) -> int:
    from minitrans.embedding.jobs.lines import LineFile

    return len(LineFile(str(file)).windows)


if __name__ == "__main__":
    sys.exit(errors.run(app, "python -m benchmarks.embed"))
