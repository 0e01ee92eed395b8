"""The page of a run in a real browser without a head: what it draws, what it fetches, and that nothing in it is obeyed."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from minitrans.files import write_json
from minitrans.lab.report import write_report
from minitrans.testing.contract import FORMS
from tests.browser import measured

HOSTILE = """<script>document.title = "obeyed"</script><img src="http://example.invalid/x.png"><b class='x'>bold</b>"""
# written behind the page: what a reader would see of it, as one attribute
MEASURE = """<script>
const box = each => { const b = each.getBoundingClientRect(); return [Math.round(b.width), Math.round(b.height)] }
const all = (what, of) => [...document.querySelectorAll(what)].map(of)
document.body.dataset.measured = JSON.stringify({
  title: document.title, tables: all("table", box), plots: all("body > svg", box), maps: all("figure svg", box), headings: all("h2", e => e.textContent),
  elements: [...new Set(all("*", e => e.localName))], wide: document.documentElement.scrollWidth - innerWidth,
  outside: all("svg circle, svg polyline", e => e).filter(e => {
    const a = e.getBoundingClientRect(), b = e.ownerSVGElement.getBoundingClientRect()
    return a.left < b.left || a.right > b.right || a.top < b.top || a.bottom > b.bottom }).length,
  fetched: performance.getEntriesByType("resource").map(e => e.name), text: document.body.innerText })
</script>"""


def row(variant: str, section: str, seed: int = 0, **found: Any) -> dict[str, Any]:
    return {
        "variant": variant,
        "spec": variant,
        "section": section,
        "seed": seed,
        "options": {},
        "status": "ok",
        "date": "2026-01-01",
        **found,
    }


def rows() -> list[dict[str, Any]]:
    """Of every section that this file knows, of two variants, one with a name that is HTML."""
    trunk = {"task": HOSTILE, "layers": 2, "width": 64, "heads": 1, "steps": 10, "batch": 4, "examples": 5}
    found = []
    for variant, score in (("full", 4), (HOSTILE, 1)):
        swap = {"score": 20.0 * score, "exact": 82.0, "cosine": score / 5, "fresh": [], "fresh_numbers": 0}
        found.append(row(variant, "swap", **swap))
        support = dict.fromkeys(FORMS, "" if variant == "full" else HOSTILE)
        found.append(row(variant, "gate", passed=3, refused=1, support=support))
        found.append(row(variant, "layers", each=[81.0, 60.0], top_half=70.0, exact=82.0))
        ratios = [[0.2 * score * head for head in range(3)]] * 2
        means = {"error": 0.1 * score, "floor": 0.9, "ratio": 0.11 * score, "errors": [0.1] * 2, "floors": [0.9] * 2}
        found.append(row(variant, "fidelity", **means, heads=ratios, divergence=None, recall=0.5))
        seen = dict.fromkeys(("entropy", "support", "first", "last", "dead", "logit"), ratios)
        found.append({**row(variant, "diagnostics", **seen), "options": {"texts": 2, "length": 8}})
        of_lengths = {"forward": [0.1, 0.3], "both": [0.2, 0.1 * score], "memory": [1e6, 4e6], "flops": [1e9, 4e9]}
        powers, pays = {"both": 1.5, "memory": None}, {"both": 128, "memory": None}
        costs = {"lengths": [64, 128], "own": of_lengths, "exact": {**of_lengths, "both": [0.2, 0.3]}}
        found.append(row(variant, "cost", **costs, ends="", exponents=powers, efficient=pays))
        for seed in (0, 1):
            curve = [("swap", 0, 10.0), ("transfer", 20, 60.0), ("tune", 20, 20.0 * score)]
            points = [{"stage": stage, "step": step, "seconds": step / 4, "score": at} for stage, step, at in curve]
            after = {"exact": 82.0, "without": 81.0, "ablated": None, "touched": {"transfer": 100, "tune": 1000}}
            found.append(row(variant, "heal", seed, score=20.0 * score, curve=points, **after))
            rates = {
                "0.01": {"score": 20.0 * score, "hits": [score] * 5, "curve": [[5, 1.0, 10.0], [10, 2.0, 20.0 * score]]}
            }
            sizes = {"parameters": 1000, "hidden_width": 128, "length": 64, "questions": [5] * 5, "options": trunk}
            found.append(row(variant, "scratch", seed, rates=rates, rate="0.01", score=20.0 * score, **sizes))
            scores = {"64": 90.0, "128": 20.0 * score}
            found.append(row(variant, "extrapolate", seed, scores=scores, trained=64, score=20.0 * score))
        probed = {"score": 20.0 * score, "refitted": 30.0, "exact": 82.0, "fitted_to": 2000}
        found += [row(variant, "sst2", **probed), row(variant, "wnut17", **probed)]
    old = row("of other options", "swap", date="2025-12-31", options={"of": "then"}, score=1.0, cosine=0.0)
    return [old, *found, {**row("broken", "gate"), "status": "failed", "reason": HOSTILE}]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    head = {"command": HOSTILE, "model": HOSTILE, "data": [HOSTILE], "date": "today", "commit": "abc", "dirty": False}
    write_json(tmp_path / "run.json", {**head, "device": "CPU", "threads": 1, "torch": "2.13"})
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows()))
    return write_report(tmp_path)


def test_every_element_is_closed_and_nothing_is_fetched(page: Path):
    """Where there is no browser too."""
    stack: list[str] = []
    seen: set[str] = set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            seen.add(tag)
            assert not {name for name, _ in attributes} & {"src", "href", "srcset", "action"}, attributes
            assert not [name for name, _ in attributes if name.startswith("on")], attributes
            if tag != "meta":
                stack.append(tag)

        def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            seen.add(tag)

        def handle_endtag(self, tag: str) -> None:
            assert stack.pop() == tag, f"</{tag}> closes something else"

    text = page.read_text()
    Reader().feed(text)
    assert stack == []
    assert {"table", "svg", "polyline", "circle"} <= seen
    assert not seen & {"script", "img", "iframe", "link", "object", "embed", "b"}
    assert "url(" not in text
    assert "@import" not in text


def visit(page: Path, folder: Path, width: int) -> dict[str, Any]:
    """What the browser shows of the page."""
    return measured(page.read_text() + MEASURE, folder, width)


@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_shows_all_of_it(page: Path, tmp_path: Path, width: int):
    seen = visit(page, tmp_path, width)
    assert seen["title"] == "minitrans lab"
    assert not set(seen["elements"]) & {"img", "b", "iframe", "link"}
    assert seen["fetched"] == []
    assert "of other options" not in seen["text"]
    assert seen["text"].count("""<script>document.title = "obeyed"</script>""") >= 6  # shown, letter by letter
    headings = (
        "What was asked and held",
        "Swapped in all layers",
        "One layer at a time",
        "Fidelity",
        "Diagnostics",
        "Cost",
        "Healed",
        "From scratch",
        "Longer than in training",
        "SST-2",
        "WNUT-17",
        "Failed",
        "Again",
    )
    assert all(any(wanted in heading for heading in seen["headings"]) for wanted in headings)
    assert len(seen["tables"]) == 12
    assert all(wide > 100 and high > 40 for wide, high in seen["tables"])
    assert seen["maps"] == [[36, 24]] * 6  # three of each variant: layers down, heads across
    assert len(seen["plots"]) == 7
    assert all(wide > 300 and high > 150 for wide, high in seen["plots"])
    assert seen["outside"] == 0  # no mark beyond its plot
    assert seen["wide"] <= 0 or width == 500  # a wide table may scroll on a telephone
