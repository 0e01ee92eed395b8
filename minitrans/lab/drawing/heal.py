"""Healed: a table, and the curves over the steps of both stages."""

from __future__ import annotations

from minitrans.lab.drawing.parts import Plane, Results, Row, mean_of, shown, table

_TITLES = (
    "variant", "swapped", "layers healed", "healed end to end", "loses to exact", "branch off",
    "exact attention put back",
    "parameters touched", "seconds", "seeds",
)  # fmt: skip


def draw(of: Results) -> str:
    """The best first; "full" is the exact model after the same steps, the control."""
    found = {name: sections["heal"] for name, sections in of.items() if "heal" in sections}
    lines = []
    for name in sorted(found, key=lambda name: -mean_of(found[name], "score")[0]):
        rows = found[name]
        ends = [{stage: _end(row, stage) for stage in ("swap", "transfer", "tune")} for row in rows]
        lines.append([
            "full, the control" if name == "full" else name,
            *(shown([end[stage] for end in ends], "score") for stage in ("swap", "transfer", "tune")),
            f"{rows[0]['exact'] - mean_of(rows, 'score')[0]:+.2f}",
            "" if rows[0].get("ablated") is None else shown(rows, "ablated"), shown(rows, "without"),
            " + ".join(f"{count:,}" for count in rows[0]["touched"].values()),
            " + ".join(f"{mean_of([end[stage] for end in ends], 'seconds')[0]:.0f}" for stage in ("transfer", "tune")),
            str(len(rows)),
        ])  # fmt: skip
    options = ", ".join(f"{key} {value}" for key, value in next(iter(found.values()))[0]["options"].items())
    return (
        "<h2>Healed</h2><p>First each layer alone learns the outputs of the exact attention, then the model learns the vectors "
        "of the exact one. Where the exact attention put back into the healed weights scores as much as the variant, the "
        f"variant adds nothing to what was learned. Options: {options}.</p>{table(_TITLES, lines)}{_plot(found)}"
    )


def _end(row: Row, stage: str) -> Row:
    """The last point of a stage, or of what came before where it has none."""
    until = ("swap", "transfer", "tune")[: ("swap", "transfer", "tune").index(stage) + 1]
    last: Row = [point for point in row["curve"] if point["stage"] in until][-1]
    return last


def _plot(found: dict[str, list[Row]]) -> str:
    """The curves of the first seed."""
    curves = {}
    for name, rows in found.items():
        transfer = _end(rows[0], "transfer")["step"]
        curves[name] = [
            (point["step"] + (transfer if point["stage"] == "tune" else 0), point["score"])
            for point in rows[0]["curve"]
        ]
    steps, scores = zip(*(point for curve in curves.values() for point in curve), strict=True)
    plane = Plane(steps, scores, "steps", "score")
    for number, (name, curve) in enumerate(curves.items()):
        plane.line(curve, name, number * 137 % 360)
    return plane.svg()
