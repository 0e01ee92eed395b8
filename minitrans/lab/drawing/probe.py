"""Tasks by linear probes, side by side with what the exact model has."""

from __future__ import annotations

from minitrans.lab.drawing.parts import Results, mean_of, shown, table

_TITLES = ("variant", "score", "change", "probe fitted again", "change")


def draw_sst2(of: Results) -> str:
    """Accuracy."""
    return _draw(of, "sst2", "SST-2", "accuracy on the development set; the probe reads sentence vectors")


def draw_wnut17(of: Results) -> str:
    """F1 of entities."""
    return _draw(
        of, "wnut17", "WNUT-17", "F1 of whole entities on the test set; the probe reads the vector of each word"
    )


def _draw(of: Results, section: str, title: str, what: str) -> str:
    """The best first."""
    found = {name: sections[section] for name, sections in of.items() if section in sections}
    order = sorted(found, key=lambda name: -mean_of(found[name], "score")[0])
    first = found[order[0]][0]
    lines = []
    for name in order:
        changes = [f"{mean_of(found[name], key)[0] - first['exact']:+.2f}" for key in ("score", "refitted")]
        lines.append((name, shown(found[name], "score"), changes[0], shown(found[name], "refitted"), changes[1]))
    return (
        f"<h2>{title}</h2><p>A linear probe on frozen vectors, fitted to {first['fitted_to']} examples: {what}. The exact model "
        f"scores {first['exact']:.2f}. First the probe of the exact model on the vectors of the swapped one, then one that was "
        f"fitted to these.</p>{table(_TITLES, lines)}"
    )
