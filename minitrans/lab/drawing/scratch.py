"""Trained from scratch: a table with the difference to softmax attention, and the curves."""

from __future__ import annotations

import statistics
from html import escape

from minitrans.lab.bootstrap import paired
from minitrans.lab.drawing.parts import Plane, Results, Row, table

_TITLES = (
    "variant",
    "accuracy",
    "difference to full, 95 %",
    "verdict",
    "rate",
    "parameters",
    "feed-forward",
    "steps",
    "10¹² operations",
    "seconds",
)

_EQUAL = {"steps": "", "flops": " by full, by others in as many operations (products of matrices)"}


def draw(of: Results) -> str:
    """The best first; each at the rate that is best on the examples for choosing, mean of the seeds."""
    found = {name: sections["scratch"] for name, sections in of.items() if "scratch" in sections}
    rates = {name: best_rate(rows) for name, rows in found.items()}
    scores = {name: [row["rates"][rates[name]]["score"] for row in rows] for name, rows in found.items()}
    lines = []
    for name in sorted(found, key=lambda name: -statistics.fmean(scores[name])):
        first = found[name][0]
        spread = f" ± {statistics.stdev(scores[name]):.1f}" if len(scores[name]) > 1 else ""
        seconds = statistics.fmean(row["rates"][rates[name]]["curve"][-1][1] for row in found[name])
        lines.append([
            name, f"{statistics.fmean(scores[name]):.1f}{spread}", *_against(found, rates, name), rates[name],
            f"{first['parameters']:,}", str(first["hidden_width"]), *_compute(found[name], rates[name]), f"{seconds:.0f}",
        ])  # fmt: skip
    options = next(iter(found.values()))[0]["options"]
    equal = options.get("equal", "steps")  # which older results do not say
    seeds = max(len(rows) for rows in found.values())
    drawn = "seeds and texts" if seeds > 1 else "texts: one seed does not tell how much trainings differ"
    return (
        f"<h2>From scratch</h2><p>Right answers, per cent, on {options['examples']} held-out texts of {first['length']} tokens; "
        f"task {escape(options['task'])}, {options['layers']} layers of width {options['width']}, {options['heads']} heads, "
        f"at most {options['steps']} steps of {options['batch']} texts{_EQUAL[equal]}; {seeds} seeds, ± is their deviation. "
        f"Parameters are made equal by the width of the feed-forward layers. Intervals: a paired bootstrap over {drawn}.</p>"
        f"{table(_TITLES, lines)}<h2>While they learn</h2>{_curves(found, rates)}"
    )


def best_rate(rows: list[Row]) -> str:
    """By the last look at the examples for choosing."""
    rates: list[str] = list(rows[0]["rates"])
    return max(rates, key=lambda rate: statistics.fmean(row["rates"][rate]["curve"][-1][2] for row in rows))


def _compute(rows: list[Row], rate: str) -> tuple[str, str]:
    """Steps that were done, mean of the seeds, and what they took; older results do not say the latter."""
    done = statistics.fmean(row["rates"][rate]["curve"][-1][0] for row in rows)
    first = rows[0]
    return f"{done:.0f}", f"{first['flops'] / first['steps'] * done / 1e12:.2f}" if "flops" in first else ""


def _against(found: dict[str, list[Row]], rates: dict[str, str], name: str) -> tuple[str, str]:
    """Difference and verdict, over the seeds that both have."""
    if name == "full" or "full" not in found:
        return "", ""
    pairs = [(row, other) for row in found[name] for other in found["full"] if row["seed"] == other["seed"]]
    if not pairs:
        return "", ""
    ours = [row["rates"][rates[name]]["hits"] for row, _ in pairs]
    theirs = [other["rates"][rates["full"]]["hits"] for _, other in pairs]
    difference = paired(ours, theirs, pairs[0][0]["questions"])
    return f"{difference.found:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]", difference.verdict


def _curves(found: dict[str, list[Row]], rates: dict[str, str]) -> str:
    """Mean of the seeds, as far as all of them went."""
    lines = {}
    for name, rows in found.items():
        curves = [row["rates"][rates[name]]["curve"] for row in rows]
        lines[name] = [(each[0][0], statistics.fmean(look[2] for look in each)) for each in zip(*curves, strict=False)]
    steps, scores = zip(*(point for points in lines.values() for point in points), strict=True)
    plane = Plane([0.0, *steps], [0.0, 100.0, *scores], "steps", "accuracy while training")
    for number, (name, points) in enumerate(lines.items()):
        plane.line(points, name, 47 * number % 360)
    return plane.svg()
