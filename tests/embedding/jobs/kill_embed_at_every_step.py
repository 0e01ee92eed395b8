"""Kills `minitrans embed` before its n-th change of the file system, for n = 1, 2, 3 ..., until it survives; resumes each time.

    python kill_embed_at_every_step.py FILE MODEL FOLDER EXPECTED

Prints how many kills there were; exits 1 with a line for each output that was neither absent nor whole.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from minitrans.cli.app import main
from minitrans.embedding import batching
from minitrans.embedding.jobs import job  # noqa: F401 (loaded once, before the forks)

STEPS = ("replace", "link", "fsync", "unlink", "rmdir", "mkdir", "chmod")


def child(arguments: list[str], kill_at: int | None) -> int:
    """The exit status of a run in a fork."""
    pid = os.fork()
    if pid == 0:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        if kill_at is not None:
            count_down(kill_at)
        os._exit(main(arguments))
    return os.waitpid(pid, 0)[1]


def count_down(left: int) -> None:
    for name in STEPS:
        real = getattr(os, name)

        def step(*arguments: object, real: object = real, **options: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)  # type: ignore[operator]

        setattr(os, name, step)


def run() -> int:
    file, model, folder, expected = sys.argv[1:]
    torch.set_num_threads(1)
    batching.MAX_TEXTS = 4
    whole = Path(expected).read_bytes()
    faults = 0
    step = 0
    while True:
        step += 1
        place = Path(folder) / str(step)
        place.mkdir(parents=True)
        out = place / "v.npy"
        arguments = ["embed", file, "-m", model, "-o", str(out)]
        survived = child(arguments, step) == 0
        if out.exists() and out.read_bytes() != whole:
            print(f"step {step}: half a file")
            faults += 1
        if survived:
            print(f"{step - 1} kills, {faults} faults")
            return faults > 0
        published = out.exists() and not (place / "v.npy.parts" / "manifest.json").exists()
        if not published and child([*arguments, "--resume"], None) != 0:
            print(f"step {step}: cannot be resumed: {sorted(path.name for path in place.rglob('*'))}")
            faults += 1
        if out.read_bytes() != whole or sorted(path.name for path in place.iterdir()) not in (
            ["v.npy"],
            ["v.npy", "v.npy.parts"] if published else [],
        ):
            print(f"step {step}: {sorted(path.name for path in place.rglob('*'))}")
            faults += 1


if __name__ == "__main__":
    sys.exit(run())
