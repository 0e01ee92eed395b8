"""The page of a text in a real browser: what it draws, that it can be used, and that nothing of the text is obeyed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import minitrans
from minitrans.looking.view import page, patterns
from tests.browser import measured
from tests.looking.conftest import SIZES, tiny

HOSTILE = [
    "</script>",
    "<img src=x onerror=document.title='obeyed'>",
    "\u202eright to left",
    "\U0001f600",
    "\u2028",
    "&lt;",
    '"',
    "\\u003c",
]
USE = """<script>
const wait = () => document.body.dataset.ready ? use() : setTimeout(wait, 20)
const use = () => {
  const canvases = [...document.querySelectorAll("#all canvas")]
  canvases[3].click()
  const clicked = document.getElementById("said").textContent
  dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowUp" }))
  const moved = document.getElementById("said").textContent
  const one = document.getElementById("one"), box = one.getBoundingClientRect()
  one.dispatchEvent(new PointerEvent("pointermove", { clientX: box.left + box.width * .9, clientY: box.top + 1, bubbles: true }))
  const pointed = document.getElementById("said").textContent
  document.querySelectorAll("#maps button")[1].click()
  const colours = each => [...each.getContext("2d").getImageData(0, 0, each.width, each.height).data].filter((value, at) => at % 4 === 0)
  document.body.dataset.measured = JSON.stringify({ clicked, moved, pointed, title: document.title, heads: canvases.length,
    rolled: [...new Set(colours(one))].length, wide: document.documentElement.scrollWidth - innerWidth,
    buttons: [...document.querySelectorAll("#maps button")].map(each => each.textContent),
    words: [...document.querySelectorAll("#lines text")].map(each => each.textContent), text: document.getElementById("text").textContent,
    lens: [...document.querySelectorAll("#lens tbody tr")].length, images: document.images.length,
    fetched: performance.getEntriesByType("resource").map(each => each.name) }) }
wait()
</script>"""


@pytest.fixture(scope="module")
def masked():
    torch.manual_seed(0)
    return minitrans.BertForMaskedLM(minitrans.BertConfig(**SIZES)).eval()


@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_shows_it_and_obeys_nothing(masked, tmp_path: Path, width: int):
    batch = {"input_ids": torch.arange(5, 5 + len(HOSTILE))[None]}
    html = page(masked, batch, {"": HOSTILE}, name=HOSTILE[1], text=" ".join(HOSTILE), word=lambda i: HOSTILE[i % 8])
    seen = measured(html.replace("</html>", "") + USE, tmp_path, width, milliseconds=5000)
    assert seen["title"] == "minitrans view"
    assert seen["images"] == 0
    assert seen["fetched"] == []
    assert seen["heads"] == 4
    assert seen["buttons"] == ["attention", "rollout of attention"]
    assert seen["clicked"].startswith("Layer 1, head 1: entropy ")
    assert seen["moved"].startswith("Layer 0, head 1: entropy ")
    weight = patterns(masked, batch)["pattern"][0, 1, 0, 7]
    assert seen["pointed"].endswith(f"looks at “{HOSTILE[7]}” with {round(float(weight) * 255) / 255:.3f}.")
    assert seen["rolled"] >= 2  # a diagonal, and the rest
    assert seen["words"][:8] == [word[:16] for word in HOSTILE]
    assert seen["text"] == " ".join(HOSTILE)
    assert seen["lens"] == 2
    assert seen["wide"] <= 0


def test_pages_are_small_and_the_same_twice(masked):
    batch = {"input_ids": torch.randint(5, 37, (1, 20))}
    tokens = {"": [str(number) for number in range(20)]}
    assert page(masked, batch, tokens) == page(masked, batch, tokens)
    assert len(page(masked, batch, tokens)) < 30_000
    with pytest.raises(ValueError, match="at most 1024 tokens"):
        page(masked, batch, {"": ["x"] * 1025})
    with pytest.raises(ValueError, match="one text at a time"):
        patterns(masked, {"input_ids": torch.ones(2, 3, dtype=torch.long)})


def test_a_pair_shows_both_halves_and_the_crossing():
    model, batch = tiny("t5")
    found = patterns(model, {name: each[:1] for name, each in batch.items()})
    assert {name: tuple(each.shape) for name, each in found.items()} == {
        "encoder.pattern": (2, 3, 8, 8), "decoder.pattern": (3, 3, 6, 6), "decoder.cross_pattern": (3, 3, 6, 8),
    }  # fmt: skip
