"""The way through a benchmark's cases: each provider is checked, then those that passed are timed together; nothing stops it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
import typer

from benchmarks.measuring import Budget, Quiet, first_line, is_fatal
from benchmarks.record import CRASHED, Record, Row
from benchmarks.tables import against_baseline, case_of, timed_table


class DeviceLostError(RuntimeError):
    """Nothing further can run in this process."""


@dataclass
class Job:
    """One case.

    Attributes:
        key: what names it in the rows.
        begin: computes what providers are compared with.
        refusals: provider -> why it does not serve the case.
        checks: provider -> a function that gives what can be timed, or None where it is wrong or there is nothing to time, and
            what was found out on the way.
        measure: from what can be timed, by provider, to rows by provider and mode.
    """

    key: Row
    begin: Callable[[], None]
    refusals: dict[str, str]
    checks: Mapping[str, Callable[[], tuple[Any, Row]]]
    measure: Callable[[dict[str, Any]], dict[str, dict[str, Row]]]


def sweep(
    record: Record, jobs: Iterable[tuple[Row, Callable[[], Job]]], budget: Budget, baseline: str | None = None
) -> None:
    """Runs the jobs, (key, how to make it) each, that the record does not have; those for which no time is left become a row.

    `baseline` is that of the printed tables, as in `tables.against_baseline`.

    Exits the process with the code CRASHED where the device was lost: another process can go on.
    """
    for key, make in jobs:
        if is_done(key, record):
            continue
        before = len(record.rows)
        try:
            if budget.left > 0:
                run(key, make, record)
            else:
                record.add({**key, "provider": "all", "mode": "all", "status": "cut", "reason": "no time was left"})
        except DeviceLostError as error:
            typer.echo(f"the device was lost: {error}", err=True)
            sys.exit(CRASHED)
        finally:
            show(record.rows[before:], baseline)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    record.finish()
    typer.echo(str(record.path))


def run(key: Row, make: Callable[[], Job], record: Record) -> None:
    """Adds the rows of one job. Raises DeviceLostError."""
    made: list[Job] = []

    def begin() -> None:
        made.append(make())
        made[0].begin()

    if not attempt(record, {**key, "provider": "reference", "mode": "all"}, begin):
        return
    job = made[0]
    ready: dict[str, Any] = {}
    notes: dict[str, Row] = {}
    refused = job.refusals.items()
    rows = [
        {**key, "provider": name, "mode": "all", "status": "unserved", "reason": reason} for name, reason in refused
    ]
    for name, check in job.checks.items():
        place = {**key, "provider": name, "mode": "all"}
        if record.has(**place):  # an earlier process died of it
            continue
        checked: list[tuple[Any, Row]] = []
        if attempt(record, place, lambda: checked.append(check())):  # noqa: B023
            ready[name], notes[name] = checked[0]
            if ready[name] is None:
                del ready[name]
                rows.append({**place, "status": "checked", **notes[name]})

    def time_all() -> None:
        for name, modes in job.measure(ready).items():
            for mode, row in modes.items():
                rows.append({**key, "provider": name, "mode": mode, "status": "timed", **notes[name], **row})

    if ready:
        attempt(record, {**key, "provider": ", ".join(ready), "mode": "timing"}, time_all)
    record.add(*rows)


def attempt(record: Record, place: Row, work: Callable[[], None]) -> bool:
    """Whether `work` was done; otherwise a row says why not. Raises DeviceLostError where the process is of no more use."""
    record.begin(**place)
    try:
        with Quiet():
            work()
    except Exception as error:  # a provider may fail in any way; the reason is part of the result
        record.add({**place, "status": "failed", "reason": first_line(error)})
        if is_fatal(error):
            raise DeviceLostError(first_line(error)) from error
        return False
    return True


def is_done(key: Row, record: Record) -> bool:
    """Whether the record has all it will have of a case: more than that one provider was too much for the process."""
    mine = [row for row in record.rows if all(row.get(name) == value for name, value in key.items())]
    return any(row["status"] != "failed" or row["mode"] == "timing" or row["provider"] == "reference" for row in mine)


def show(rows: list[Row], baseline: str | None = None) -> None:
    """The rows of one case: a table of those that are timed, and why the others are not."""
    if not rows:
        return
    typer.echo(f"\n{case_of(rows[0])}")
    timed = against_baseline(rows, baseline)
    modes = list(dict.fromkeys(row["mode"] for row in timed))
    timed.sort(key=lambda row: modes.index(row["mode"]))
    if timed:
        typer.echo(timed_table(timed, {"provider": itemgetter("provider"), "mode": itemgetter("mode")}))
    for row in rows:
        if "not_finite" in row:
            counts = ", ".join(f"{name} {count}" for name, count in row["not_finite"].items())
            typer.echo(f"{row['provider']}: not finite: {counts}")
        elif row["status"] != "timed":
            typer.echo(f"{row['provider']}: {row['status']}: {row['reason']}")
