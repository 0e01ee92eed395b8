"""Diagnostics: means by variant, and a map of layers and heads for the support and for the first token."""

from __future__ import annotations

from minitrans.lab.drawing.parts import Results, maps, table

_KEYS = ("entropy", "support", "first", "last", "dead")
_TITLES = ("variant", "entropy", "support", "first token", "last token", "dead rows", "largest logit")


def draw(of: Results) -> str:
    """In the order of the run; of several seeds the first."""
    rows = {name: sections["diagnostics"][0] for name, sections in of.items() if "diagnostics" in sections}
    lines = []
    for name, row in rows.items():
        means = [_mean([head for layer in row[key] if layer is not None for head in layer]) for key in _KEYS]
        logit = max(head for layer in row["logit"] for head in layer)
        lines.append([name, *("" if mean is None else f"{mean:.3f}" for mean in means), f"{logit:.1f}"])
    options = next(iter(rows.values()))["options"]
    full = {name: row for name, row in rows.items() if all(row[key][0] is not None for key in ("support", "first"))}
    support = {name: row["support"] for name, row in full.items()}
    first = {name: row["first"] for name, row in full.items()}
    return (
        f"<h2>Diagnostics</h2><p>{options['texts']} passages of {options['length']} tokens, means over queries, heads and "
        f"layers. Support: exp(entropy), tokens.</p>{table(_TITLES, lines)}"
        f"<p>Support by layer (down) and head (across), full colour {options['length']} tokens.</p>"
        f"{maps(support, options['length'])}<p>Share of the first token, full colour 1.</p>{maps(first, 1.0)}"
    )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
