"""Fidelity: a table, error against score, and a map of layers and heads for each variant."""

from __future__ import annotations

from collections.abc import Sequence

from minitrans.lab.drawing.parts import Plane, Results, Row, maps, mean_of, shown, table

_TITLES = ("variant", "error / floor", "error", "floor", "KL", "recall", "score swapped")


def draw(of: Results) -> str:
    """The nearest first."""
    found = {name: sections["fidelity"] for name, sections in of.items() if "fidelity" in sections}
    lines = []
    for name in sorted(found, key=lambda name: mean_of(found[name], "ratio")[0]):
        rows, score = found[name], of[name].get("swap", [])
        lines.append([
            name, *(shown(rows, key, 3) for key in ("ratio", "error", "floor")),
            *(_optional(rows, key) for key in ("divergence", "recall")), shown(score, "score") if score else "",
        ])  # fmt: skip
    options = ", ".join(f"{key} {value}" for key, value in next(iter(found.values()))[0]["options"].items())
    heads = {name: rows[0]["heads"] for name, rows in found.items()}
    return (
        "<h2>Fidelity</h2><p>Each layer is given what the exact model gives it. Error: |O' - O| / |O|; floor: that of the mean "
        "of all values; KL of the probabilities in nats; recall of the keys with the highest. "
        f"Options: {options}.</p>{table(_TITLES, lines)}{_plot(of, found)}"
        f"<p>Error / floor by layer (down) and head (across): white 0, full colour 1 and more.</p>{maps(heads, 1.0)}"
    )


def _optional(rows: Sequence[Row], key: str) -> str:
    return shown(rows, key, 3) if rows[0][key] is not None else ""


def _plot(of: Results, found: dict[str, list[Row]]) -> str:
    """What is near in a layer need not score well."""
    both = [name for name in found if "swap" in of[name]]
    if not both:
        return ""
    points = {name: (mean_of(found[name], "ratio")[0], mean_of(of[name]["swap"], "score")[0]) for name in both}
    ratios, scores = zip(*points.values(), strict=True)
    plane = Plane([0.0, *ratios], scores, "error / floor", "score swapped")
    for name, (ratio, score) in points.items():
        plane.point(ratio, score, f"{name}: {ratio:.3f}, {score:.2f}", name)
    return plane.svg()
