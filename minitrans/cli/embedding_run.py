"""`embed --out FILE` from its first check to the finished file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from minitrans.cli.embedding_job import Job, add_windows, await_others, describe, join
from minitrans.cli.guard import note
from minitrans.cli.line_file import LineFile
from minitrans.cli.loading import load_encoder, note_truncated
from minitrans.cli.options import Runtime
from minitrans.cli.parts import Parts
from minitrans.cli.vector_files import check_name
from minitrans.cli.world import World, device_of, world_from_environment
from minitrans.cli.writing import progress, require_writable
from minitrans.files import printable


@dataclass(frozen=True)
class Target:
    """What --out, --resume, --join, --force and --wait say."""

    path: Path
    resume: bool
    join: bool
    force: bool
    wait: float


def into_file(file: str, target: Target, runtime: Runtime, call: Mapping[str, Any]) -> None:
    """Embeds `file`, or this process's share of it; the first process writes the output when all of it is there.

    Raises:
        ValueError: for a mistake of the user. OSError: for one of the disk. What has been done stays for --resume.
    """
    world = world_from_environment()
    parts = Parts(target.path)
    continues = parts.begun() and (target.resume or target.join or world.shared)
    if world.rank > 0 and target.path.exists() and not parts.begun() and not target.force:
        note(f"{printable(target.path)}: there already, nothing to do for rank {world.rank}")
        return
    check_target(file, target, parts, world, continues=continues)
    lines = LineFile(file)
    job = Job(lines, parts, world, 0 if target.join else target.wait)
    if target.join:
        with parts.locked(shared=True):
            parts.agree({**parts.manifest(), "input": lines.identity()})
            finish(job, target)
        return
    encoder = load_encoder(replace(runtime, device=device_of(runtime.device, world)))
    manifest = describe(lines, encoder, call, runtime.backend)
    with parts.locked(shared=world.shared):
        if not continues and not world.shared:
            parts.sweep()
        parts.agree(manifest)
        try:
            mine = sum(window.lines for number, window in enumerate(lines.windows) if world.owns(number))
            with progress("embedding", mine) as advance:
                done = add_windows(job, encoder, call, parts.shape(), advance)
            note_truncated(encoder, done)
            if world.rank == 0:
                finish(job, target)
        except BaseException:
            if not world.shared and parts.empty():
                parts.clear()
            raise


def check_target(file: str, target: Target, parts: Parts, world: World, *, continues: bool) -> None:
    """Raises ValueError, before any work is done, for an output that cannot or must not be written."""
    check_name(target.path)
    if target.join and target.resume:
        raise ValueError("give --resume or --join, got both")
    if world.shared and file == "-":
        raise ValueError("FILE: expected a file that every process can read, got standard input")
    if target.join and not parts.begun():
        raise ValueError(f"{parts.name}: expected the parts of a run, found none")
    if parts.begun() and not continues and not target.force:
        raise ValueError(
            f"{parts.name}: expected no unfinished run, found one; --resume goes on with it, --force begins anew"
        )
    require_writable(target.path, force=target.force or continues, source=file)


def finish(job: Job, target: Target) -> None:
    """Joins the windows, when all are there, and says so."""
    shape = job.parts.shape()
    await_others(job, shape)
    join(job, shape, target.path)
    typer.echo(f"{printable(target.path)}\t{job.lines.lines} vectors of {shape.dimension} numbers")
