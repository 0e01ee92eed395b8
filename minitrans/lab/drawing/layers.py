"""What the score loses with one layer swapped, or the top half."""

from __future__ import annotations

from minitrans.lab.drawing.parts import Results, heat, table


def draw(of: Results) -> str:
    """A heat map, variants by layers; of several seeds the first."""
    lines = []
    titles: list[str] = []
    for name, sections in of.items():
        for row in sections.get("layers", [])[:1]:
            changes = [score - row["exact"] for score in [*row["each"], row["top_half"]]]
            lines.append([name, *(heat(f"{change:+.2f}", change / 10) for change in changes)])
            titles = [*map(str, range(len(row["each"]))), "top half"]
    return f"<h2>One layer at a time</h2><p>Change of the score.</p>{table(['layer', *titles], lines)}"
