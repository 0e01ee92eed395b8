"""What loading a checkpoint costs: seconds against reading its file, and peak memory against its size.

    python -m benchmarks.load

The checkpoint has the sizes of bert-base and random weights, 438 MB, and is made for the purpose. Each measurement is a
process of its own that has imported what it needs, and collected the garbage of that, before its clock starts; the file is in
the page cache; the ways are interleaved, the median of the ratios within a round counts. "read the file" is `open(path).read()`;
in threads, each reads its share into one buffer. `transformers` maps the file and reads nothing until a weight is used: the row
"transformers, touched" sums each weight once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from benchmarks.options import AsJson, Results
from benchmarks.record import RESULTS, result_file, save
from benchmarks.tables import table
from minitrans.cli import errors

MEGABYTE = 10**6

READERS = """
import os, torch
from concurrent.futures import ThreadPoolExecutor

def read_in_threads(path):
    size, threads = os.path.getsize(path), torch.get_num_threads()
    buffer, file = torch.empty(size, dtype=torch.uint8).numpy(), os.open(path, os.O_RDONLY)
    bounds = [size * n // threads for n in range(threads + 1)]

    def read(begin, end):
        while begin < end:
            begin += os.preadv(file, [buffer[begin:end]], begin)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read, bounds, bounds[1:]))
    os.close(file)
    return buffer
"""
# What each way imports first, and what is timed.
WAYS: dict[str, tuple[str, str]] = {
    "read the file": ("", "value = open(folder + '/model.safetensors', 'rb').read()"),
    "read the file, in threads": (READERS, "value = read_in_threads(folder + '/model.safetensors')"),
    "minitrans": (
        "from minitrans.models.bert import BertModel; BertModel.from_pretrained(small)",
        "value = BertModel.from_pretrained(folder)",
    ),
    "transformers": (
        "from transformers import BertModel, logging; logging.disable_progress_bar(); logging.set_verbosity_error();"
        "BertModel.from_pretrained(small)",
        "value = BertModel.from_pretrained(folder)",
    ),
    "transformers, touched": (
        "from transformers import BertModel, logging; logging.disable_progress_bar(); logging.set_verbosity_error();"
        "BertModel.from_pretrained(small)",
        "value = BertModel.from_pretrained(folder); total = [p.sum() for p in value.parameters()]",
    ),
}
CHILD = """
import gc, json, sys, time, torch
folder, small, threads, imports, timed = sys.argv[1:]
torch.set_num_threads(int(threads))
def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
scope = {"folder": folder, "small": small}
exec(imports, scope)
gc.collect()
open("/proc/self/clear_refs", "w").write("5")
before, cpu, start = status("VmRSS"), time.process_time(), time.perf_counter()
exec(timed, scope)
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": status("VmHWM") - before}))
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def measure(way: str, folder: Path, small: Path, threads: int) -> dict[str, float]:
    """Seconds and bytes of peak memory of one way, in a fresh process. Linux only: it reads /proc."""
    command = [sys.executable, "-c", CHILD, str(folder), str(small), str(threads), *WAYS[way]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def make(folder: Path, **sizes: int) -> None:
    """A BERT checkpoint with random weights."""
    from minitrans.models.bert import BertConfig, BertModel

    BertModel(BertConfig(**sizes)).save_pretrained(folder)


@app.command()
def load(
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each way.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 2,
    model: Annotated[
        Path | None, typer.Option(help="A folder of BERT; default: one made with bert-base's sizes.")
    ] = None,
    as_json: AsJson = False,
    results: Results = RESULTS,
) -> None:
    """Print seconds (median and best), processor seconds, the ratio to reading the file, and peak memory beyond its size.

    Examples:

        python -m benchmarks.load --rounds 9 --json
    """
    target = result_file(results, "load") if as_json else None
    ways = [way for way in WAYS if not way.startswith("transformers") or find_spec("transformers")]
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        folder, small = Path(name) / "base", Path(name) / "small"
        if model is None:
            make(folder)
        else:
            folder = model.resolve()
        size = (folder / "model.safetensors").stat().st_size
        make(small, vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
        for way in ways:
            measure(way, folder, small, threads)  # the page cache, and compiled Python files
        for _ in range(rounds):
            for way in ways:
                found[way].append(measure(way, folder, small, threads))
    rows: dict[str, Any] = {}
    for way in ways:
        paired = [one["seconds"] / read["seconds"] for one, read in zip(found[way], found[ways[0]], strict=True)]
        rows[way] = {
            "seconds": median(one["seconds"] for one in found[way]),
            "best": min(one["seconds"] for one in found[way]),
            "cpu_seconds": median(one["cpu"] for one in found[way]),
            "ratio": median(paired),
            "peak_beyond_file_mb": (median(one["peak"] for one in found[way]) - size) / MEGABYTE,
        }
    typer.echo(f"{size / MEGABYTE:.0f} MB, {threads} threads, median of {rounds}")
    heading = ("way", "seconds", "best", "cpu", "x reading", "MB beyond the file")
    typer.echo(table(heading, [[way, *row.values()] for way, row in rows.items()]))
    save(target, "load", bytes=size, rounds=rounds, ways=rows, threads=threads)


if __name__ == "__main__":
    sys.exit(errors.run(app, "python -m benchmarks.load"))
