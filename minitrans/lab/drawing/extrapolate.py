"""Scores at lengths beyond that of training."""

from __future__ import annotations

import statistics

from minitrans.lab.drawing.parts import Plane, Results, Row, heat, table


def draw(of: Results) -> str:
    """A table, variants by lengths, and lines; mean and deviation over seeds."""
    found = {name: sections["extrapolate"] for name, sections in of.items() if "extrapolate" in sections}
    first = next(iter(found.values()))[0]
    lengths = list(first["scores"])
    lines = []
    plane = Plane([float(length) for length in lengths], [0.0, 100.0], "tokens", "accuracy", (True, False))
    for number, (name, rows) in enumerate(found.items()):
        cells, means = [], []
        for length in lengths:
            scores = [row["scores"][length] for row in rows]
            means.append(statistics.fmean(scores))
            spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
            cells.append(heat(f"{means[-1]:.1f}{spread}", (means[-1] - 50) / 50))
        lines.append([name, *cells])
        plane.line(list(zip(map(float, lengths), means, strict=True)), name, 47 * number % 360)
    return (
        f"<h2>Longer than in training</h2><p>Right answers, per cent, on texts of these lengths, after training at "
        f"{first['trained']} tokens; {_places(first)}.</p>{table(['variant', *lengths], lines)}{plane.svg()}"
    )


def _places(row: Row) -> str:
    return "sinusoids tell places" if row["options"].get("sinusoids") else "nothing but the attention tells places"
