"""Cost: a table, time against length, and what a variant's time buys."""

from __future__ import annotations

from minitrans.lab.drawing.parts import Plane, Results, Row, mean_of, table

_TITLES = (
    "variant", "forward, ms", "exact", "forward and backward, ms", "exact", "memory, MB", "exact", "GFLOP", "exact",
    "time grows with n to the", "memory to the", "faster from n =", "smaller from n =", "ends",
)  # fmt: skip
_UNITS = {"forward": 1e3, "both": 1e3, "memory": 1e-6, "flops": 1e-9}


def draw(of: Results) -> str:
    """At the longest length that each reached; the fastest first."""
    rows = {name: sections["cost"][0] for name, sections in of.items() if "cost" in sections}
    lines = []
    for name in sorted(rows, key=lambda name: rows[name]["own"]["both"][-1] / rows[name]["exact"]["both"][-1]):
        row = rows[name]
        figures = [f"{row[who][key][-1] * unit:.3g}" for key, unit in _UNITS.items() for who in ("own", "exact")]
        powers = ["" if row["exponents"][key] is None else f"{row['exponents'][key]:.2f}" for key in ("both", "memory")]
        lengths = [str(row["efficient"][key] or "") for key in ("both", "memory")]
        lines.append([f"{name}, n = {row['lengths'][-1]}", *figures, *powers, *lengths, row["ends"][:60]])
    options = ", ".join(f"{key} {value}" for key, value in next(iter(rows.values()))["options"].items())
    return (
        "<h2>Cost</h2><p>One layer's attention with its projections on one text, in turns with the exact one; medians. "
        f"Options: {options}.</p>{table(_TITLES, lines)}{_curves(rows)}{_pareto(of, rows)}"
    )


def _curves(rows: dict[str, Row]) -> str:
    first = next(iter(rows.values()))
    curves = {"exact": [*zip(first["lengths"], first["exact"]["both"], strict=True)]}
    curves |= {name: [*zip(row["lengths"], row["own"]["both"], strict=True)] for name, row in rows.items()}
    lengths, times = zip(*(point for curve in curves.values() for point in curve), strict=True)
    plane = Plane(lengths, times, "tokens", "forward and backward, s", (True, True))
    for number, (name, curve) in enumerate(curves.items()):
        plane.line(curve, name, number * 137 % 360)
    return plane.svg()


def _pareto(of: Results, rows: dict[str, Row]) -> str:
    """Score after the swap, or after healing where that is known, against time relative to the exact attention."""
    points = {}
    for name, row in rows.items():
        scored = of[name].get("heal") or of[name].get("swap")
        if scored:
            points[name] = (row["own"]["both"][-1] / row["exact"]["both"][-1], mean_of(scored, "score")[0])
    if not points:
        return ""
    best = [
        name for name, (time, score) in points.items()
        if not any(t <= time and s >= score and (t, s) != (time, score) for t, s in points.values())
    ]  # fmt: skip
    times, scores = zip(*points.values(), strict=True)
    plane = Plane(times, scores, "time / exact, at the longest length", "score, healed where known", (True, False))
    plane.line(sorted(points[name] for name in best), "nothing is better", 140)
    for name, (time, score) in points.items():
        plane.point(time, score, f"{name}: {time:.2f} x, {score:.2f}", name)
    return f"<h3>Score against time</h3>{plane.svg()}"
