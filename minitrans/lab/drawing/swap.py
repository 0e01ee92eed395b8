"""Swapped in all layers: a table, and score against likeness."""

from __future__ import annotations

from minitrans.lab.drawing.parts import Plane, Results, Row, mean_of, shown, table

_TITLES = ("variant", "score", "change", "cosine", "fresh parameters", "gate: passed, refused")


def draw(of: Results) -> str:
    """The best first."""
    found = {name: sections["swap"] for name, sections in of.items() if "swap" in sections}
    order = sorted(found, key=lambda name: -mean_of(found[name], "score")[0])
    lines = []
    for name in order:
        rows = found[name]
        change = mean_of(rows, "score")[0] - rows[0]["exact"]
        gates = [f"{row['passed']}, {row['refused']}" for row in of[name].get("gate", [])]
        lines.append(
            (name, shown(rows, "score"), f"{change:+.2f}", shown(rows, "cosine", 4), _fresh(rows[0]), *(gates or [""]))
        )
    exact = found[order[0]][0]["exact"]
    return (
        f"<h2>Swapped in all layers, no training</h2><p>With its own attention the model scores {exact:.2f} (Spearman's "
        "correlation x 100, STS benchmark). Cosine: of the sentence vectors with those of the exact model, mean.</p>"
        f"{table(_TITLES, lines)}<h2>Score against likeness</h2>{_plot(found, exact)}"
    )


def _fresh(row: Row) -> str:
    """The names of fresh parameters, those of all layers as one."""
    names = sorted({name.rpartition("variants.")[2].partition(".")[2] for name in row["fresh"]})
    return f"{', '.join(names)} ({row['fresh_numbers']:,} numbers)" if names else "none"


def _plot(found: dict[str, list[Row]], exact: float) -> str:
    """The order of one is not the order of the other."""
    points = {name: (mean_of(rows, "cosine")[0], mean_of(rows, "score")[0]) for name, rows in found.items()}
    cosines, scores = zip(*points.values(), strict=True)
    plane = Plane([0.0, 1.0, *cosines], [0.0, exact, *scores], "cosine", "score")
    plane.level(exact, f"exact {exact:.2f}")
    for name, (cosine, score) in points.items():
        plane.point(cosine, score, f"{name}: {score:.2f}, {cosine:.4f}", name if score < exact - 2 else "")
    return plane.svg()
