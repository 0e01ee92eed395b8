"""Where, when and by which code something was measured."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

PACKAGE = Path(__file__).resolve().parent.parent


def where_and_when(device: torch.device) -> dict[str, Any]:
    """Date, commit, whether the tree differs from it, machine, versions; commit None where git does not tell."""
    gpu = device.type == "cuda"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **commit(PACKAGE.parent),
        "device": torch.cuda.get_device_name(device) if gpu else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def digest(files: Iterable[Path]) -> str:
    """Of the names and contents of files."""
    found = hashlib.sha256()
    for file in sorted(files):
        found.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return found.hexdigest()


def code_digest() -> str:
    """Of all code that can change a number: the package but its command line and its page."""
    page = ("cli", "drawing")
    own = (file for file in PACKAGE.rglob("*.py") if file.parent.name not in page and file.name != "report.py")
    return digest(own)


def commit(root: Path) -> dict[str, Any]:
    """Of the tree, and whether anything but results differs from it; None where git does not tell."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:  # installed below another repository
            return {"commit": None, "dirty": None}
        status = git("status", "--porcelain", "--", ".", ":!benchmarks/results")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(status)}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
