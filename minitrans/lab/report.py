"""results.jsonl as one page that needs nothing else: a table, a plot of score against likeness, a heat map of layers."""

from __future__ import annotations

import statistics
from html import escape
from pathlib import Path
from typing import Any

from minitrans.files import read_json
from minitrans.lab.run import RUN, Row, read_rows

REPORT = "report.html"
_STYLE = """
:root{color-scheme:light dark;--ink:light-dark(#1b1b1b,#e8e8e8);--paper:light-dark(#fff,#16181b);
--line:light-dark(#d5d5d5,#3a3d42);--dot:light-dark(#1660b0,#78b4f5)}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse}td,th{padding:.2rem .7rem;border-bottom:1px solid var(--line);text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}td.heat{color:#000}code{overflow-wrap:anywhere}
svg{max-width:100%;height:auto}svg text{fill:var(--ink);font-size:11px}svg line{stroke:var(--line)}svg circle{fill:var(--dot)}
"""


def write_report(out: Path) -> Path:
    """Writes report.html into a folder of results, and returns its path."""
    head = read_json(out / RUN)
    of = by_variant(read_rows(out))
    parts = [
        f"<h1>Attention swapped into {escape(head['model'])}</h1>",
        f"<p>{head['pairs']} pairs of {escape(head['data'])}; with its own attention the model scores {head['exact']:.2f} "
        "(Spearman's correlation x 100).</p>",
        _table(head, of), _plot(head, of), _heat_map(head, of), _origin(head),
    ]  # fmt: skip
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>minitrans lab</title><style>{_STYLE}</style>'
        f"<body>{''.join(parts)}</body></html>\n"
    )
    path = out / REPORT
    path.write_text(page, encoding="utf-8")
    return path


def by_variant(rows: list[Row]) -> dict[str, dict[str, list[Row]]]:
    """Rows by variant and section; of several seeds all."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault(row["variant"], {}).setdefault(row["section"], []).append(row)
    return found


def mean_of(rows: list[Row], key: str) -> tuple[float, float] | None:
    """Mean and deviation over seeds; None where nothing was measured."""
    values = [row[key] for row in rows if row["status"] == "ok"]
    return (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0) if values else None


def _scores(of: dict[str, dict[str, list[Row]]]) -> list[tuple[str, float, float, float]]:
    """(variant, score, its deviation, cosine), the best first."""
    found = []
    for name, sections in of.items():
        score, cosine = (mean_of(sections.get("swap", []), key) for key in ("score", "cosine"))
        if score is not None and cosine is not None:
            found.append((name, *score, cosine[0]))
    return sorted(found, key=lambda each: -each[1])


def _table(head: Row, of: dict[str, dict[str, list[Row]]]) -> str:
    lines = []
    for name, score, deviation, cosine in _scores(of):
        first = of[name]["swap"][0]
        spread = f" ± {deviation:.2f}" if len(of[name]["swap"]) > 1 else ""
        lines.append(
            _cells(
                name,
                f"{score:.2f}{spread}",
                f"{score - head['exact']:+.2f}",
                f"{cosine:.4f}",
                _fresh(first),
                _gate(of[name].get("gate", [])),
            )
        )
    for name, sections in of.items():
        for row in (row for rows in sections.values() for row in rows if row["status"] == "failed"):
            lines.append(_cells(name, "failed", row["section"], "", row["reason"][:300], ""))
    title = "".join(
        f'<th class="{"n" if 0 < number < 4 else ""}">{word}</th>'
        for number, word in enumerate(
            ("variant", "score", "change", "cosine", "fresh parameters", "gate: passed, refused")
        )
    )
    return (
        "<h2>Swapped in all layers, no training</h2><p>Cosine: of the sentence vectors with those of the exact model, mean."
        f" </p><table><tr>{title}</tr>{''.join(lines)}</table>"
    )


def _cells(*words: str) -> str:
    cells = (f'<td class="{"n" if 0 < n < 4 else ""}">{escape(word)}</td>' for n, word in enumerate(words))
    return f"<tr>{''.join(cells)}</tr>"


def _fresh(row: Row) -> str:
    """The names of fresh parameters, those of all layers as one."""
    names = sorted({name.rpartition("variants.")[2].partition(".")[2] for name in row["fresh"]})
    return f"{', '.join(names)} ({row['fresh_numbers']:,} numbers)" if names else "none"


def _gate(rows: list[Row]) -> str:
    return f"{rows[0]['passed']}, {rows[0]['refused']}" if rows and rows[0]["status"] == "ok" else ""


def _plot(head: Row, of: dict[str, dict[str, list[Row]]]) -> str:
    """Score against cosine: the order of one is not the order of the other."""
    points = _scores(of)
    if not points:
        return ""
    low = min([0.0, *(score for _, score, _, _ in points)])
    high = max(head["exact"], *(score for _, score, _, _ in points))
    left = min([0.0, *(cosine for *_, cosine in points)])

    def place(cosine: float, score: float) -> tuple[float, float]:
        return 50 + 620 * (cosine - left) / (1 - left), 370 - 340 * (score - low) / ((high - low) or 1.0)

    dots = []
    for name, score, _, cosine in points:
        x, y = place(cosine, score)
        dots.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{escape(name)}: {score:.2f}, {cosine:.4f}</title></circle>'
        )
        if score < head["exact"] - 2:
            dots.append(f'<text x="{x - 7:.1f}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>')
    _, level = place(0.0, head["exact"])
    return (
        '<h2>Score against likeness</h2><svg viewBox="0 0 720 400" width="720" role="img" aria-label="score against cosine">'
        f'<line x1="50" x2="670" y1="{level:.1f}" y2="{level:.1f}"/><text x="50" y="{level - 5:.1f}">exact {head["exact"]:.2f}'
        f'</text><line x1="50" x2="670" y1="370" y2="370"/><line x1="50" x2="50" y1="30" y2="370"/><text x="6" y="374">{low:.0f}'
        f'</text><text x="46" y="388">{left:.1f}</text><text x="660" y="388">1.0</text><text x="330" y="396">cosine</text>'
        f"{''.join(dots)}</svg>"
    )


def _heat_map(head: Row, of: dict[str, dict[str, list[Row]]]) -> str:
    """What the score loses with one layer swapped, or the top half."""
    lines = []
    for name, sections in of.items():
        for row in sections.get("layers", [])[:1]:
            if row["status"] == "ok":
                cells = [_heat(score - head["exact"]) for score in [*row["each"], row["top_half"]]]
                lines.append(f"<tr><td>{escape(name)}</td>{''.join(cells)}</tr>")
    titles = "".join(f'<th class="n">{layer}</th>' for layer in [*range(head["layers"]), "top half"])
    table = f"<table><tr><th>layer</th>{titles}</tr>{''.join(lines)}</table>"
    return f"<h2>One layer at a time</h2><p>Change of the score.</p>{table}" if lines else ""


def _heat(change: float) -> str:
    share = min(abs(change) / 10, 1.0)
    colour = f"hsl({10 if change < 0 else 140} 75% {95 - 40 * share:.0f}%)"
    return f'<td class="n heat" style="background:{colour}">{change:+.2f}</td>'


def _origin(head: dict[str, Any]) -> str:
    """How to do it again."""
    state = {True: "with changes", False: "clean", None: "unknown"}[head["dirty"]]
    code = f"torch {head['torch']}, commit {head['commit']} ({state})"
    facts = f"{head['date']}, {head['device']}, {head['threads']} threads, {code}"
    return f"<h2>Again</h2><p><code>{escape(head['command'])}</code></p><p>{escape(facts)}</p>"
