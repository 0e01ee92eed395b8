"""The findings as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from minitrans_kernels.inspection.compilation import Binary
from minitrans_kernels.inspection.occupancy import occupancy
from minitrans_kernels.inspection.survey import Finding

BEGIN, END = "<!-- compiled: begin -->", "<!-- compiled: end -->"


def table(findings: Iterable[Finding], architectures: tuple[str, ...]) -> str:
    """A row for each kernel of each case, a column for each architecture."""
    rows: dict[tuple[str, str], dict[str, list[str]]] = {}
    for finding in findings:
        row = rows.setdefault((finding.launch.name, finding.case), {})
        cells = row.setdefault(finding.launch.architecture, [])
        if _cell(finding) not in cells:
            cells.append(_cell(finding))
    lines = [
        "| kernel | call | " + " | ".join(architectures) + " |",
        "|---" * (2 + len(architectures)) + "|",
    ]
    for (kernel, case), row in sorted(rows.items()):
        columns = ("<br>".join(row.get(architecture, [])) for architecture in architectures)
        lines.append(f"| {kernel} | {case} | " + " | ".join(columns) + " |")
    return "\n".join(lines) + "\n"


def _cell(finding: Finding) -> str:
    if finding.binary is None:
        return "**fails**"
    text = f"{finding.launch.tile}: {_numbers(finding.binary, finding.launch.architecture)}"
    return f"**{text}**" if finding.faults else text


def _numbers(binary: Binary, architecture: str) -> str:
    held = occupancy(binary, architecture)
    memory = f"{binary.shared / 1024:.3g} KB" if binary.shared >= 1024 else f"{binary.shared} B"
    numbers = f"{binary.registers} r, {memory}, {held.programs} ({held.share:.0%})"
    return ", ".join([numbers, *binary.matrix_instructions])


def write(text: str, path: Path) -> None:
    """Puts the text between the markers of a Markdown file.

    Raises:
        ValueError: where the file has no markers.
    """
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} must hold the lines {BEGIN} and {END}, and does not")
    path.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")
