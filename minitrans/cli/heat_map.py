"""A matrix of probabilities as a picture in the terminal: colours, shades, or plain ASCII."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

SHADES = " ░▒▓█"
ASCII_SHADES = " .:-=+*#%@"
LOW, HIGH = (24, 32, 48), (255, 190, 60)  # colours of 0 and 1
MAX_LABEL = 10


def ascii_only(console: Console) -> bool:
    """Whether only ASCII may be printed: what the output takes, and what the user said in LC_ALL."""
    return not console.encoding.startswith("utf") or os.environ.get("LC_ALL") in ("C", "POSIX")


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
    margin = max(len(name) for name in names) + 1
    cell = min(4, (console.width - margin) // len(names))
    if cell < 1:
        raise ValueError(f"{len(names)} tokens do not fit in {console.width} columns; use a shorter sentence")
    picture = Text()
    height = max(len(name) for name in names)
    for line in range(height):
        letters = (name.rjust(height)[line].center(cell) for name in names)
        picture.append(f"{' ' * margin}{''.join(letters)}".rstrip() + "\n", style="dim")
    for name, row in zip(names, values, strict=True):
        picture.append(name.rjust(margin - 1) + " ")
        for value in row:
            picture.append_text(_cell(value, cell, coloured=console.color_system is not None, plain=plain))
        picture.append("\n")
    picture.rstrip()
    return picture


def legend(console: Console, *, plain: bool) -> Text:
    """What the shades mean, from 0 to 1."""
    steps = 11 if console.color_system is not None else len(ASCII_SHADES if plain else SHADES)
    shown = Text("0 ")
    for step in range(steps):
        shown.append_text(_cell(step / (steps - 1), 2, coloured=console.color_system is not None, plain=plain))
    return shown.append(" 1")


def _cell(value: float, width: int, *, coloured: bool, plain: bool) -> Text:
    value = min(max(value, 0.0), 1.0)
    if coloured and not plain:
        red, green, blue = (round(low + (high - low) * value) for low, high in zip(LOW, HIGH, strict=True))
        return Text(" " * width, style=f"on rgb({red},{green},{blue})")
    shades = ASCII_SHADES if plain else SHADES
    return Text(shades[min(int(value * len(shades)), len(shades) - 1)] * max(1, width - 1) + " " * (width > 1))


def _short(label: str, plain: bool) -> str:
    """A label cut to `MAX_LABEL` characters, each of one column."""
    shown = "".join(c if c.isprintable() and (c.isascii() or not plain) else "?" for c in label)
    return shown if len(shown) <= MAX_LABEL else shown[: MAX_LABEL - 1] + "~"
