"""`minitrans view` and `minitrans attention`."""

from __future__ import annotations

from pathlib import Path


def test_a_page_is_written_once(run, tiny, tmp_path: Path):
    model, out = tiny("BertForMaskedLM"), tmp_path / "page.html"
    done = run("view", "the cat sat", "--model", model, "--out", out, "--compare", "sigmoid")
    assert done.code == 0, done.err
    text = out.read_text(encoding="utf-8")
    assert '"attention \\u00b7 sigmoid"' in text
    assert '"lens": {' in text
    run("view", "the cat sat", "--model", model, "--out", out).refused("page.html: exists already; --force replaces it")
    assert run("view", "the dog sat", "--model", model, "--out", out, "--force").code == 0
    assert out.read_text(encoding="utf-8") != text


def test_heads_are_printed(run, tiny):
    model = tiny("BertForMaskedLM")
    done = run("attention", "the cat sat", "--model", model, "--layer", 0, "--head", 1)
    assert done.code == 0, done.err
    assert [
        line.split()[0] for line in done.out.splitlines() if line.split() and line.split()[0] in ("the", "cat", "sat")
    ]
    assert run("view", "the cat sat", "--model", model, "--terminal", "--layer", 0, "--head", 1).out == done.out
    run("attention", "the cat", "--model", model, "--layer", 9).refused("--layer: expected 0 to")
    run("attention", "the cat", "--model", model, "--head", 9).refused("--head: expected 0 to")
    for given, message in (
        (["--target", "x"], "no decoder beside"),
        (["--compare", "{"], "--compare: expected a name or JSON"),
        (["--compare", "linformer"], "no pattern to show"),
    ):
        run("view", "the cat", "--model", model, "--out", "never.html", *given).refused(message)
    assert not Path("never.html").exists()
