"""Tables and plots of what the kernel benchmarks wrote, and ratios of two results.

python -m benchmarks.report FILE [--baseline PROVIDER] [--plots FOLDER]          (plots: extra `plot`)
python -m benchmarks.report BEFORE AFTER
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.tables import OURS, Row, against_baseline, best, case_of, number, shown, table, timed_table
from minitrans.cli import errors
from minitrans.errors import CheckpointError
from minitrans.files import read_json

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Content = dict[str, Any]


def load(path: Path) -> Content:
    """A result. Raises CheckpointError where the file is none."""
    content = read_json(path)
    if not isinstance(content.get("rows"), list) or "benchmark" not in content:
        raise CheckpointError(f"{path}: expected the result of a benchmark, found other JSON")
    return content


def tables(content: Content, baseline: str | None = None) -> str:
    """Everything in a result, as markdown; `baseline` as in `against_baseline`."""
    timed = against_baseline(content["rows"], baseline)
    name = _namer(content["rows"])
    parts = [_facts(content)]
    for mode in dict.fromkeys(row["mode"] for row in timed):
        chosen = [row for row in timed if row["mode"] == mode]
        details = timed_table(chosen, {"case": name, "provider": itemgetter("provider")})
        parts.append(f"## {mode}\n\n{overview(chosen, name)}\n\n{details}")
    parts += _counts(content["rows"], name) + _others(content["rows"], name)
    return "\n\n".join(parts) + "\n"


def overview(rows: list[Row], name: Callable[[Row], str]) -> str:
    """A line a case, a column a provider: milliseconds, the fewest in bold; then how our fastest compares."""
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    lines = []
    for case in dict.fromkeys(map(name, rows)):
        mine = {row["provider"]: row for row in rows if name(row) == case}
        least = min(row["ms"]["median"] for row in mine.values())
        texts = [number(mine[each]["ms"]["median"]) if each in mine else None for each in providers]
        bold = [f"**{text}**" if text == number(least) else text for text in texts]
        ours = min(
            (row for each, row in mine.items() if each.startswith(OURS)),
            key=lambda row: row["ms"]["median"], default={},
        )  # fmt: skip
        lines.append([case, *bold, ours.get("baseline"), shown(ours.get("times"))])
    return table(["case, ms", *providers, "baseline", "x times"], lines)


def _namer(rows: list[Row]) -> Callable[[Row], str]:
    """A case in words, without a dtype that all share: it stands above."""
    return partial(case_of, dtype=len({row.get("dtype") for row in rows}) > 1)


def _facts(content: Content) -> str:
    device = content.get("device", {})
    found = [f"# {content['benchmark']}, {device.get('name', 'unknown device')}, {content.get('date', 'no date')}"]
    commit, changed = content.get("commit"), ", with changes" if content.get("dirty") else ""
    versions = ", ".join(f"{name} {version}" for name, version in content.get("versions", {}).items() if version)
    found.append(f"{versions}; commit {commit or 'unknown'}{changed}")
    if content.get("limits"):
        limits = content["limits"]
        found.append(
            f"Limits: matmul {number(limits['matmul_tflops'])} TFLOP/s, copy {number(limits['copy_tb_per_s'])} TB/s."
        )
    dtypes = {row["dtype"] for row in content["rows"] if "dtype" in row}
    if len(dtypes) == 1:
        found.append(f"All in {dtypes.pop()}.")
    if not content.get("finished", True):
        found.append("The run was cut before its end.")
    return "\n\n".join(found)


def _counts(rows: list[Row], name: Callable[[Row], str]) -> list[str]:
    """Where elements were counted that are not finite."""
    counted = [row for row in rows if "not_finite" in row]
    if not counted:
        return []
    names = list(counted[0]["not_finite"])
    lines = [[name(row), row["provider"], *(row["not_finite"][each] for each in names)] for row in counted]
    heading = ["case", "provider", *("output" if each == "output" else f"gradient of {each}" for each in names)]
    return ["## elements that are not finite\n\n" + table(heading, lines)]


def _others(rows: list[Row], name: Callable[[Row], str]) -> list[str]:
    """What was not timed, and why: a line a reason."""
    cases: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["status"] != "timed" and "not_finite" not in row:
            reason = (row["provider"], row["mode"], row["status"], row.get("reason", ""))
            cases.setdefault(reason, []).append(row)
    lines = [[*reason, ", ".join(dict.fromkeys(map(name, mine)))] for reason, mine in cases.items()]
    return ["## not timed\n\n" + table(["provider", "mode", "status", "why", "cases"], lines)] if lines else []


_FLAT: dict[str, Callable[[Row], object]] = {
    **{name: itemgetter(name) for name in ("case", "B", "H", "S", "K", "dtype", "provider", "mode", "status")},
    **{
        f"ms_{name}": (lambda row, name=name: row.get("ms", {}).get(name)) for name in ("median", "low", "high", "runs")
    },
    **{
        name: (lambda row, name=name: row.get(name)) for name in ("peak_bytes", "tflops", "baseline", "times", "reason")
    },
}


def write_beside(path: Path, baseline: str | None = None) -> None:
    """The rows of a result of the attention benchmark as CSV, those without a time too, and its tables as Markdown."""
    content = load(path)
    timed = {id(row): row for row in content["rows"]}
    compared = iter(against_baseline(content["rows"], baseline))
    for row in content["rows"]:
        if row["status"] == "timed":
            timed[id(row)] = next(compared)
    with path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_FLAT)
        writer.writerows([value(row) for value in _FLAT.values()] for row in timed.values())
    path.with_suffix(".md").write_text(tables(content, baseline), encoding="utf-8")


def comparison(one: Content, other: Content) -> str:
    """Times of the cases that both have, and how many times as fast the second is."""

    def timed(content: Content) -> dict[tuple[str, str, str], Row]:
        chosen = (row for row in content["rows"] if row["status"] == "timed")
        return {(case_of(row), row["provider"], row["mode"]): row for row in chosen}

    before, after = timed(one), timed(other)
    name = _namer(one["rows"] + other["rows"])
    lines: list[list[object]] = []
    for key in before:
        if key in after:
            first, second = before[key]["ms"], after[key]["ms"]
            apart = first["high"] < second["low"] or second["high"] < first["low"]
            times = shown(first["median"] / second["median"])
            lines.append([
                name(before[key]), *key[1:], first["median"], second["median"], times,
                None if apart else "within the quartiles",
            ])  # fmt: skip
    heading = ["case", "provider", "mode", "ms before", "ms after", "x times", ""]
    only = f"{len(before.keys() - after.keys())} only before, {len(after.keys() - before.keys())} only after."
    titles = f"{_facts(one)}\n\n{_facts(other)}"
    return f"{titles}\n\n{table(heading, lines)}\n\n{only}\n"


def plot(content: Content, folder: Path) -> list[Path]:
    """One picture per kind of case and mode that has several lengths: TFLOP/s over the length."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    groups: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in content["rows"]:
        if row["status"] == "timed" and "S" in row and "tflops" in row:
            name = f"{row['case']} H{row['H']} K{row['K']} {row['mode']}"
            groups.setdefault(name, {}).setdefault(row["provider"], []).append((row["S"], best(row, "tflops")))
    written = []
    for name, providers in groups.items():
        if max(len(points) for points in providers.values()) < 2:
            continue
        figure, axes = plt.subplots(figsize=(6, 4))
        for provider, points in providers.items():
            axes.plot(*zip(*sorted(points), strict=True), marker="o", label=provider)
        axes.set_xscale("log", base=2)
        axes.set(xlabel="length", ylabel="TFLOP/s", title=f"{name}, {content['device']['name']}")
        axes.legend()
        path = folder / f"{content['benchmark']}-{name.replace(' ', '-')}.png"
        figure.savefig(path, bbox_inches="tight")
        plt.close(figure)
        written.append(path)
    return written


@app.command()
def main(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A result.")],
    other: Annotated[Path | None, typer.Argument(metavar="[OTHER]", help="A later one, to compare.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="PROVIDER", help="What others are compared with; default: the fastest that is not ours."),
    ] = None,
    plots: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Draw FILE into this folder.")] = None,
) -> None:
    """Print a result, or the comparison of two, as markdown.

    Examples:

        python -m benchmarks.report benchmarks/results/attention-2026-11-28-cpu.json
    """
    content = load(file)
    providers = dict.fromkeys(row["provider"] for row in content["rows"])
    if baseline is not None and baseline not in providers:
        raise ValueError(f"--baseline: expected one of {', '.join(providers)}, got {baseline}")
    typer.echo(tables(content, baseline) if other is None else comparison(content, load(other)), nl=False)
    if plots is not None:
        for path in plot(content, plots):
            typer.echo(str(path), err=True)


if __name__ == "__main__":
    sys.exit(errors.run(app, "python -m benchmarks.report"))
