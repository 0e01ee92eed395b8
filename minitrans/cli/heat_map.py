"""A matrix of probabilities as a picture in the terminal: colours where there are enough of them, shades, or plain ASCII."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

SHADES = " ░▒▓█"
ASCII_SHADES = " .:-=+*#%@"
LOW, HIGH = (24, 32, 48), (255, 190, 60)  # colours of 0 and 1
# The same way in the 256 colours of a terminal, each lighter than the one before. Of 16 colours no such row can be made.
PALETTE = (234, 236, 238, 58, 94, 136, 172, 178, 214, 220)
MAX_LABEL = 10


def heat_map(console: Console, values: Sequence[Sequence[float]], labels: Sequence[str], *, plain: bool) -> Text:
    """A row for each row of `values` (in [0, 1]), its label on the left, those of the columns above, read downwards.

    Args:
        console: where it goes; its width decides how wide a cell is.
        values: (T, S)
        labels: of the columns, and of the rows.
        plain: ASCII only.

    Raises:
        ValueError: where the columns do not fit.
    """
    names = [_short(label, plain) for label in labels]
    height = max(len(name) for name in names)
    cell = min(4, (console.width - height - 1) // len(names))
    if cell < 1:
        raise ValueError(f"{len(names)} tokens do not fit in {console.width} columns; use a shorter sentence")
    rows = []
    for line in range(height):
        letters = "".join(name.rjust(height)[line].center(cell) for name in names)
        rows.append(Text(f"{' ' * (height + 1)}{letters}".rstrip(), style="dim"))
    for name, row in zip(names, values, strict=True):
        cells = [_cell(value, cell, console, plain=plain) for value in row]
        rows.append(Text(name.rjust(height) + " ").append_text(Text().join(cells)))
    return Text("\n").join(rows)


def legend(console: Console, *, plain: bool) -> Text:
    """What the shades mean, from 0 to 1."""
    steps = 11 if _coloured(console, plain) else len(ASCII_SHADES if plain else SHADES)
    cells = [_cell(step / (steps - 1), 2, console, plain=plain) for step in range(steps)]
    return Text("0 ").append_text(Text().join(cells)).append(" 1")


def _coloured(console: Console, plain: bool) -> bool:
    return not plain and console.color_system in ("truecolor", "256")


def _cell(value: float, width: int, console: Console, *, plain: bool) -> Text:
    value = min(max(value, 0.0), 1.0)
    if not _coloured(console, plain):
        shades = ASCII_SHADES if plain else SHADES
        return Text(shades[min(int(value * len(shades)), len(shades) - 1)] * max(1, width - 1) + " " * (width > 1))
    if console.color_system == "256":
        return Text(" " * width, style=f"on color({PALETTE[min(int(value * len(PALETTE)), len(PALETTE) - 1)]})")
    red, green, blue = (round(low + (high - low) * value) for low, high in zip(LOW, HIGH, strict=True))
    return Text(" " * width, style=f"on rgb({red},{green},{blue})")


def _short(label: str, plain: bool) -> str:
    """A label cut to `MAX_LABEL` characters, each of one column."""
    shown = "".join(c if c.isprintable() and (c.isascii() or not plain) else "?" for c in label)
    return shown if len(shown) <= MAX_LABEL else shown[: MAX_LABEL - 1] + "~"
