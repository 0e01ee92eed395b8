"""results.jsonl as one page that needs nothing else; each section draws its part."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from minitrans.attention.registry import load
from minitrans.files import read_json
from minitrans.lab.drawing.parts import by_variant, table
from minitrans.lab.run import RUN, Row, read_rows
from minitrans.lab.sections import SECTIONS

REPORT = "report.html"
_STYLE = """
:root{color-scheme:light dark;--ink:light-dark(#1b1b1b,#e8e8e8);--paper:light-dark(#fff,#16181b);
--line:light-dark(#d5d5d5,#3a3d42);--dot:light-dark(#1660b0,#78b4f5)}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;display:block;overflow-x:auto}
td,th{padding:.2rem .7rem;border-bottom:1px solid var(--line);text-align:left}
td.n{white-space:nowrap}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td.heat{color:#000}code{overflow-wrap:anywhere}
svg{max-width:100%;height:auto}svg text{fill:var(--ink);font-size:11px}svg line{stroke:var(--line)}svg circle{fill:var(--dot)}
.maps{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0}figcaption{font-size:12px;max-width:11rem;overflow-wrap:anywhere}
"""


def write_report(out: Path) -> Path:
    """Writes report.html into a folder of results, and returns its path."""
    head = read_json(out / RUN)
    rows = read_rows(out)
    measured = _of_one_kind([row for row in rows if row["status"] == "ok"])
    title = "Attention in small models" if head["model"] is None else f"Attention swapped into {head['model']}"
    parts = [f"<h1>{escape(title)}</h1>"]
    for name, section in SECTIONS.items():
        if section.draw and any(row["section"] == name for row in measured):
            parts.append(load(section.draw)(by_variant(measured)))
    failures = [(row["variant"], row["section"], row["reason"][:300]) for row in rows if row["status"] == "failed"]
    if failures:
        parts.append(f"<h2>Failed</h2>{table(('variant', 'section', 'reason'), failures)}")
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>minitrans lab</title><style>{_STYLE}</style>'
        f"<body>{''.join(parts)}{_origin(head)}</body></html>\n"
    )
    path = out / REPORT
    path.write_text(page, encoding="utf-8")
    return path


def _of_one_kind(rows: list[Row]) -> list[Row]:
    """Of each section those with the options of the last that was measured: what others say cannot stand beside it."""
    options = {row["section"]: row.get("options") for row in sorted(rows, key=lambda row: str(row["date"]))}
    return [row for row in rows if row.get("options") == options[row["section"]]]


def _origin(head: dict[str, Any]) -> str:
    """How to do it again."""
    state = {True: "with changes", False: "clean", None: "unknown"}[head["dirty"]]
    code = f"torch {head['torch']}, commit {head['commit']} ({state})"
    facts = f"{head['date']}, {head['device']}, {head['threads']} threads, {code}; data: {', '.join(head['data']) or 'none'}"
    return f"<h2>Again</h2><p><code>{escape(head['command'])}</code></p><p>{escape(facts)}</p>"
