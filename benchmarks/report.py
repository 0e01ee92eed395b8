"""Tables and plots of what the kernel benchmarks wrote, and ratios of two results.

python -m benchmarks.report benchmarks/results/attention-2026-11-22-nvidia-h100.json > attention.md
python -m benchmarks.report before.json after.json
python -m benchmarks.report attention.json --plots folder          (extra `plot`)
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from minitrans.cli import guard
from minitrans.errors import CheckpointError
from minitrans.files import read_json

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Row = dict[str, Any]
Content = dict[str, Any]
_SIZES = ("B", "H", "S", "K", "N", "D", "dtype")
# headings and how a row gives them; a column that no row of a table fills is left out
_COLUMNS: dict[str, Callable[[Row], str]] = {
    "ms": lambda row: f"{row['ms']['median']:.4g}",
    "quartiles": lambda row: f"{row['ms']['low']:.4g}..{row['ms']['high']:.4g}",
    "graph ms": lambda row: f"{row['graph_ms']['median']:.4g}" if row.get("graph_ms") else "",
    "TFLOP/s": lambda row: f"{_best(row, 'tflops'):.3g}" if "tflops" in row else "",
    "% of matmul": lambda row: f"{100 * _best(row, 'share_of_matmul'):.0f}" if "share_of_matmul" in row else "",
    "% of copy": lambda row: f"{100 * _best(row, 'share_of_copy'):.0f}" if "share_of_copy" in row else "",
    "real tokens/s": lambda row: f"{row['tokens_per_second']:.3g}" if "tokens_per_second" in row else "",
    "MFU %": lambda row: f"{100 * row['mfu']:.0f}" if "mfu" in row else "",
    "peak MB": lambda row: f"{row['peak_bytes'] / 1e6:.0f}" if row.get("peak_bytes") is not None else "",
}


def _best(row: Row, name: str) -> float:
    """The figure of the graph where there is one: it has no launches in it."""
    value: float = row.get(f"graph_{name}", row[name])
    return value


def load(path: Path) -> Content:
    """A result. Raises CheckpointError where the file is none."""
    content = read_json(path)
    if not isinstance(content.get("rows"), list) or "benchmark" not in content:
        raise CheckpointError(f"{path}: expected the result of a benchmark, found other JSON")
    return content


def case_of(row: Row) -> str:
    """A case in words."""
    return " ".join([str(row["case"]), *(f"{name}={row[name]}" for name in _SIZES if name in row)])


def markdown(rows: list[list[str]], heading: list[str]) -> str:
    """A table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def tables(content: Content) -> str:
    """Everything in a result, as markdown."""
    parts = [_facts(content)]
    timed = [row for row in content["rows"] if row["status"] == "timed"]
    for mode in dict.fromkeys(row["mode"] for row in timed):
        chosen = [row for row in timed if row["mode"] == mode]
        names = [name for name, column in _COLUMNS.items() if any(column(row) for row in chosen)]
        lines = [[case_of(row), row["provider"], *(_COLUMNS[name](row) for name in names)] for row in chosen]
        details = markdown(lines, ["case", "provider", *names])
        parts.append(f"## {mode}\n\n{overview(chosen)}\n\n{details}")
    parts += _counts(content["rows"]) + _others(content["rows"])
    return "\n\n".join(parts) + "\n"


def overview(rows: list[Row]) -> str:
    """A line a case, a column a provider: the figure that says most, the best in bold."""
    names = ("tokens_per_second", "share_of_copy", "tflops")
    # attention says how fast it computes, a layer without products how fast it moves memory
    figure = next(
        name for name in names if all(name in row for row in rows) and not ("S" in rows[0] and "share" in name)
    )
    factor, unit = (100, "% of copy") if figure == "share_of_copy" else (1, figure.replace("_", " "))
    cases = dict.fromkeys(case_of(row) for row in rows)
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    found = {(case_of(row), row["provider"]): factor * _best(row, figure) for row in rows}
    lines = []
    for case in cases:
        best = max(value for (of, _), value in found.items() if of == case)
        values = [found.get((case, provider)) for provider in providers]
        shown = ["" if value is None else f"{value:.4g}" for value in values]
        lines.append(
            [case, *(f"**{text}**" if value == best else text for text, value in zip(shown, values, strict=True))]
        )
    return markdown(lines, [f"case, {unit}", *providers])


def _facts(content: Content) -> str:
    device = content.get("device", {})
    found = [f"# {content['benchmark']}, {device.get('name', 'unknown device')}, {content.get('date', 'no date')}"]
    versions = ", ".join(f"{name} {version}" for name, version in content.get("versions", {}).items() if version)
    found.append(versions)
    if content.get("limits"):
        limits = content["limits"]
        found.append(f"Limits: matmul {limits['matmul_tflops']:.4g} TFLOP/s, copy {limits['copy_tb_per_s']:.3g} TB/s.")
    if not content.get("finished", True):
        found.append("The run was cut before its end.")
    return "\n\n".join(found)


def _counts(rows: list[Row]) -> list[str]:
    """Where elements were counted that are not finite."""
    counted = [row for row in rows if "not_finite" in row]
    if not counted:
        return []
    names = list(counted[0]["not_finite"])
    lines = [[case_of(row), row["provider"], *(str(row["not_finite"][name]) for name in names)] for row in counted]
    heading = ["case", "provider", *("output" if name == "output" else f"gradient of {name}" for name in names)]
    return ["## elements that are not finite\n\n" + markdown(lines, heading)]


def _others(rows: list[Row]) -> list[str]:
    """What was not timed, and why; who does not serve a case is not listed."""
    silent = ("timed", "unserved")
    lines = [
        [case_of(row), row["provider"], row["mode"], row.get("status", ""), row.get("reason", "")]
        for row in rows
        if row["status"] not in silent and "not_finite" not in row
    ]
    return ["## not timed\n\n" + markdown(lines, ["case", "provider", "mode", "status", "why"])] if lines else []


def comparison(one: Content, other: Content) -> str:
    """Times of the cases that both have, and how many times as fast the second is."""

    def timed(content: Content) -> dict[tuple[str, str, str], Row]:
        chosen = (row for row in content["rows"] if row["status"] == "timed")
        return {(case_of(row), row["provider"], row["mode"]): row for row in chosen}

    before, after = timed(one), timed(other)
    lines = []
    for key in before:
        if key in after:
            first, second = before[key]["ms"], after[key]["ms"]
            apart = first["high"] < second["low"] or second["high"] < first["low"]
            lines.append([
                *key, f"{first['median']:.4g}", f"{second['median']:.4g}", f"{first['median'] / second['median']:.2f}",
                "" if apart else "within the quartiles",
            ])  # fmt: skip
    heading = ["case", "provider", "mode", "ms before", "ms after", "times as fast", ""]
    only = f"{len(before.keys() - after.keys())} only before, {len(after.keys() - before.keys())} only after."
    titles = f"{_facts(one)}\n\n{_facts(other)}"
    return f"{titles}\n\n{markdown(lines, heading)}\n\n{only}\n"


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
            groups.setdefault(name, {}).setdefault(row["provider"], []).append((row["S"], _best(row, "tflops")))
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
    plots: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Draw FILE into this folder.")] = None,
) -> None:
    """Print a result, or the comparison of two, as markdown.

    Examples:

        python -m benchmarks.report benchmarks/results/attention-2026-11-22-nvidia-h100.json
    """
    content = load(file)
    typer.echo(tables(content) if other is None else comparison(content, load(other)), nl=False)
    if plots is not None:
        for path in plot(content, plots):
            typer.echo(str(path), err=True)


if __name__ == "__main__":
    sys.exit(guard.run(app, "python -m benchmarks.report"))
