"""What each variant can be asked for, as the contract test found it."""

from __future__ import annotations

from html import escape

from minitrans.lab.drawing.parts import Results, table
from minitrans.testing.contract import FORMS


def draw(of: Results) -> str:
    """A line a variant; pointed at, a "no" gives its reason."""
    gates = {name: sections["gate"][0] for name, sections in of.items() if "gate" in sections}
    found = {name: row["support"] for name, row in gates.items() if "support" in row}  # older rows say nothing of it
    if not found:
        return ""
    lines = [(name, *(_cell(support[form]) for form in FORMS)) for name, support in found.items()]
    return f"<h2>What was asked and held</h2>{table(('variant', *FORMS), lines)}"


def _cell(reason: str) -> str:
    return f'<td title="{escape(reason)}">no</td>' if reason else "yes"
