"""What a benchmark found, as a JSON file that is whole at any moment and that a later process can go on with."""

from __future__ import annotations

import platform
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
import typer

from benchmarks.measuring import limits
from benchmarks.tables import Row
from minitrans.files import read_json, require_writable, write_json
from minitrans.lab.machine import commit

PACKAGES = (
    "minitrans", "torch", "triton", "transformers", "tokenizers", "numpy", "onnxruntime", "onnx", "openvino", "ctranslate2",
)  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CRASHED = 3  # exit code of a benchmark whose device was lost; starting it again with --resume goes on after the culprit


class Record:
    """Rows, written to the file after each is added.

    Args:
        path: the file.
        head: what stands beside the rows, such as the settings.
        resume: go on with the rows of an existing file.
    """

    def __init__(self, path: Path, head: dict[str, Any], *, resume: bool = False) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._content: dict[str, Any] = {**head, "rows": [], "in_progress": None, "finished": False, "seconds": 0.0}
        if resume and path.exists():
            before = read_json(path)
            if before.get("commit") != head.get("commit"):
                raise ValueError(
                    f"{path}: expected rows of this commit, found some of {before.get('commit')}; start anew"
                )
            self._content |= {key: before[key] for key in ("seconds", "date", "limits") if key in before}
            self._content["rows"] = [row for row in before["rows"] if row["status"] != "cut"]
            self._blame(before["in_progress"])
        self._seconds_before: float = self._content["seconds"]
        self._started = time.monotonic()
        self._rows: list[Row] = self._content["rows"]

    def _blame(self, in_progress: Row | None) -> None:
        """The process before this one ended while it did that."""
        if in_progress is not None:
            self._content["rows"].append({**in_progress, "status": "failed", "reason": "the process died here"})

    @property
    def rows(self) -> list[Row]:
        """All so far."""
        return self._rows

    @property
    def limits(self) -> dict[str, float]:
        """What `measuring.limits` found; empty before it was noted."""
        found: dict[str, float] = self._content.get("limits", {})
        return found

    def has(self, **keys: Any) -> bool:
        """Whether a row has these values."""
        return any(all(row.get(key) == value for key, value in keys.items()) for row in self._rows)

    def begin(self, **keys: Any) -> None:
        """Names what comes next, so that it can be blamed if the process dies of it."""
        self._content["in_progress"] = keys
        self._write()

    def add(self, *rows: Row) -> None:
        """Adds rows; what was in progress is over."""
        self._rows.extend(rows)
        self._content["in_progress"] = None
        self._write()

    def finish(self) -> None:
        """Nothing is left to do."""
        self._content |= {"finished": True, "in_progress": None}
        self._write()

    def note(self, **values: Any) -> None:
        """Sets values beside the rows."""
        self._content |= values
        self._write()

    def _write(self) -> None:
        self._content["seconds"] = round(self._seconds_before + time.monotonic() - self._started, 1)
        write_json(self.path, self._content)


def head(benchmark: str, device: torch.device | str = "cpu", **more: Any) -> Row:
    """What was run, when, on what, and the rest."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # a checkout that is not installed, or a peer that is absent
            versions[package] = None
    return {
        "benchmark": benchmark,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **commit(ROOT),
        "device": device_facts(torch.device(device)),
        "threads": torch.get_num_threads(),
        "versions": versions,
        **more,
    }


def result_file(results: Path, name: str, device: torch.device | str = "cpu", *, resume: bool = False) -> Path:
    """results/NAME-DATE-DEVICE.json, then NAME-DATE-DEVICE-2.json, ...: the first that is free, so nothing is overwritten.

    Args:
        results: the folder, made where there is none; or the very file, where the name ends so.
        name: of the benchmark.
        device: what it runs on.
        resume: the last of these files that exists, if one does.

    Raises:
        ValueError: where it cannot be written, before anything was measured.
    """
    if results.suffix == ".json":
        path = results
    else:
        device = torch.device(device)
        words = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        slug = "-".join(words.lower().replace("nvidia", "").split())
        stem = f"{name.replace('_', '-')}-{datetime.now(UTC):%Y-%m-%d}-{slug}"
        names = (results / f"{stem}{'' if n == 1 else f'-{n}'}.json" for n in count(1))
        taken = list(takewhile(Path.exists, names))
        path = taken[-1] if resume and taken else results / f"{stem}{f'-{len(taken) + 1}' if taken else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    require_writable(path, force=resume)
    return path


def save(path: Path | None, benchmark: str, device: torch.device | str = "cpu", **found: Any) -> None:
    """Writes what was found, and says where; nothing where there is no path."""
    if path is not None:
        write_json(path, head(benchmark, device, **found))
        typer.echo(str(path))


def chosen_device(small: bool) -> tuple[torch.device, bool]:
    """The GPU, or the CPU and then small cases on one thread."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device()), small
    torch.set_num_threads(1)
    return torch.device("cpu"), True


def open_record(benchmark: str, device: torch.device, results: Path, *, resume: bool, **settings: Any) -> Record:
    """A file of a benchmark on this device, with the limits of the machine."""
    path = result_file(results, benchmark, device, resume=resume)
    record = Record(path, head(benchmark, device, settings=settings), resume=resume)
    if not record.limits:
        record.note(limits=limits(device, small=settings["small"]))
    return record


def device_facts(device: torch.device) -> dict[str, Any]:
    """Name, size and clocks; what a driver does not tell is None."""
    if device.type != "cuda":
        return {"name": f"{platform.machine()} CPU", "capability": torch.backends.cpu.get_cpu_capability()}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "clocks": _clocks(),
    }


def _clocks() -> dict[str, str] | None:
    names = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu")
    command = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(names, (value.strip() for value in done.stdout.strip().split(",")), strict=False))
