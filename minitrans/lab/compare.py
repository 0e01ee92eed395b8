"""Two results side by side: rows of one configuration, and whether the difference is more than noise."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from minitrans.files import printable
from minitrans.lab.bootstrap import Difference, paired
from minitrans.lab.run import Row, read_rows

SAME = 1e-6  # of scores up to 100: what float32 leaves of two orders of the same sums is less than what is shown
ALONE = "one measurement each: noise unknown"
# Student's t, two-sided 95 %, by degrees of freedom; beyond, never less than it is by more than 0.001
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Compared:
    """One variant in one section.

    Attributes:
        variant, section: which.
        seeds: that both have; the numbers are of them.
        first, second: mean scores; None where there is nothing to compare.
        interval: of the second minus the first, 95 %; None where nothing tells how much noise there is.
        verdict: in words, of the second against the first.
    """

    variant: str
    section: str
    seeds: int
    first: float | None
    second: float | None
    interval: tuple[float, float] | None
    verdict: str


def compare(first: Path, second: Path) -> list[Compared]:
    """Rows that are in one of the two alone come last. Raises ValueError where a place holds no results."""
    sides = [_by_place(read_results(place)) for place in (first, second)]
    both = [place for place in sides[0] if place in sides[1]]
    found = [_compared(place, sides[0][place], sides[1][place]) for place in both]
    for side, word in zip(sides, ("first", "second"), strict=True):
        found += [Compared(*place, 0, None, None, None, f"in the {word} alone") for place in side if place not in both]
    return found


def read_results(place: Path) -> list[Row]:
    """Rows of a folder or of a file of results. Raises ValueError where there are none."""
    try:
        rows = read_rows(place)
    except (ValueError, KeyError, TypeError):
        rows = []
    if not rows:
        raise ValueError(
            f"{printable(place)}: expected a folder with results.jsonl, or such a file, found no rows of results"
        )
    return rows


def origins(rows: Sequence[Row]) -> list[str]:
    """By which commits, and where, rows were measured; each once."""
    state = {True: " with changes", False: "", None: " (unknown state)"}
    return sorted({
        f"commit {row['commit']}{state[row['dirty']]}, {row['device']}, {row['threads']} threads, torch {row['torch']}"
        for row in rows
    })  # fmt: skip


def _by_place(rows: Sequence[Row]) -> dict[tuple[str, str], dict[int, Row]]:
    found: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        found.setdefault((row["variant"], row["section"]), {})[row["seed"]] = row
    return found


def _compared(place: tuple[str, str], first: dict[int, Row], second: dict[int, Row]) -> Compared:
    pairs = [(first[seed], second[seed]) for seed in first if seed in second]
    others = {reason for reason in (_not_comparable(*pair) for pair in pairs) if reason}
    if others or not pairs:
        return Compared(*place, 0, None, None, None, "; ".join(sorted(others)) or "no seed in common")
    if any("score" not in row for pair in pairs for row in pair):
        return Compared(*place, len(pairs), None, None, None, "both ran: no score to compare")
    scores = [(one["score"], other["score"]) for one, other in pairs]
    means = [statistics.fmean(side) for side in zip(*scores, strict=True)]
    if all(abs(one - other) <= SAME for one, other in scores):
        return Compared(*place, len(pairs), means[0], means[1], (0.0, 0.0), "same")
    difference = _difference(pairs, [other - one for one, other in scores])
    if difference is None:
        return Compared(*place, len(pairs), means[0], means[1], None, ALONE)
    return Compared(*place, len(pairs), means[0], means[1], (difference.low, difference.high), difference.verdict)


def _not_comparable(one: Row, other: Row) -> str:
    """Why not; "" where the rows are of the same configuration and both were measured."""
    failed = [word for word, row in (("first", one), ("second", other)) if row["status"] == "failed"]
    if failed:
        return f"failed in the {' and the '.join(failed)}"
    hashes = [row.get("configuration") for row in (one, other)]
    if None in hashes:
        return "" if one["spec"] == other["spec"] else "another configuration: spec"
    if hashes[0] == hashes[1]:
        return ""
    differ = [key for key in ("spec", "options") if one[key] != other[key]] or ["model or data"]
    return f"another configuration: {', '.join(differ)}"


def _difference(pairs: Sequence[tuple[Row, Row]], changes: Sequence[float]) -> Difference | None:
    """By the right answers of each text where both have them; else by the deviation over seeds."""
    answers = [[_answers(row) for row in side] for side in zip(*pairs, strict=True)]
    asked = [row.get("questions") for pair in pairs for row in pair]
    if all(hits is not None for side in answers for hits in side) and all(each == asked[0] for each in asked):
        return paired(answers[1], answers[0], asked[0])  # type: ignore[arg-type]
    if len(changes) < 2:
        return None
    freedom = len(changes) - 1
    student = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else 1.96 + 2.65 / freedom
    mean, half = statistics.fmean(changes), student * statistics.stdev(changes) / sqrt(len(changes))
    return Difference(mean, mean - half, mean + half)


def _answers(row: Row) -> Any:
    """The right answers to each text, at the rate whose score is the row's; None where a section keeps none."""
    return row["rates"][row["rate"]]["hits"] if "hits" in row.get("rates", {}).get(row.get("rate"), {}) else None
