"""`minitrans lab run`: the gate, the swap, what is kept and found again, and the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from minitrans.embedding import Encoder
from minitrans.lab.bench import Bench
from minitrans.lab.gate import gate
from minitrans.lab.sections import SUITES, find_files, read_options, read_sections, usual_options
from minitrans.lab.specs import read_subjects
from minitrans.lab.swap import layers, swap
from minitrans.testing import check_attention
from tests.cli.conftest import Run

BROKEN = """
from minitrans.attention import Variant

class Broken(Variant):
    def finish(self, result, x, context):
        return None
"""


def test_a_swap_that_changes_nothing_scores_what_the_model_does_and_comes_back(bench: Bench):
    full, sigmoid = read_subjects(["full", "sigmoid"])
    before = {name: tensor.clone() for name, tensor in bench.encoder.model.state_dict().items()}
    found = swap(bench, full, 0)
    assert found["score"] == pytest.approx(bench.exact[0], abs=1e-9)
    assert found["cosine"] == pytest.approx(1.0, abs=1e-6)
    assert swap(bench, sigmoid, 0)["cosine"] < 1 - 1e-6
    after = bench.encoder.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert torch.equal(bench.score()[1], bench.exact[1])


def test_what_the_attention_of_the_model_has_learned_comes_back(body: str, data: Path):
    encoder = Encoder(body, attention="sink", backend="eager")
    own = [name for name, _ in encoder.model.named_parameters() if ".variants." in name]
    with torch.no_grad():
        for name in own:
            encoder.model.get_parameter(name).add_(2.0)
    bench = Bench(encoder, find_files(["swap"], data))
    before = bench.score()[1]
    assert swap(bench, read_subjects(["sink"])[0], 0)["fresh"] == own
    assert torch.equal(bench.score()[1], before)
    assert {block.backend for block in encoder.model.attentions} == {"eager"}


def test_suites_are_sections_with_options_that_are_understood():
    for name, (sections, options) in SUITES.items():
        wanted, said = read_sections(name)
        assert (wanted, said) == (list(sections), list(options))
        changed = {section for section, values in read_options(said).items() if values != usual_options(section)}
        assert changed == {option.split(".")[0] for option in options}
    assert read_sections("cost,swap") == (["gate", "swap", "cost"], [])
    with pytest.raises(ValueError, match=r"--section: expected some of gate, .* or a suite, quick, standard, got slow"):
        read_sections("swap,slow")


def test_fresh_parameters_are_named_and_counted(bench: Bench):
    found = swap(bench, read_subjects(["sink"])[0], 0)
    assert len(found["fresh"]) == bench.layers
    heads = bench.encoder.model.config.num_attention_heads
    assert found["fresh_numbers"] == bench.layers * heads


def test_layers_are_swapped_one_by_one(bench: Bench):
    subject = read_subjects(["sigmoid"])[0]
    found = layers(bench, subject, 0)
    assert len(found["each"]) == bench.layers
    with bench.swapped({"layers": {"0": "sigmoid"}}):
        assert found["each"][0] == pytest.approx(bench.score()[0])


def test_a_variant_that_fails_the_gate_is_reported_and_not_measured(body, data, run: Run, tmp_path: Path):
    (tmp_path / "broken_attention.py").write_text(BROKEN)
    subject = f"{tmp_path}/broken_attention.py:Broken"
    done = run("lab", "run", subject, "sigmoid", "-m", body, "--data", data, "-o", tmp_path / "out")
    assert done.code == 0, done
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [(row["variant"], row["section"], row["status"]) for row in rows] == [
        ("broken_attention:Broken", "gate", "failed"), ("sigmoid", "gate", "ok"), ("sigmoid", "swap", "ok"),
    ]  # fmt: skip
    assert "finish must return AttentionResult" in rows[0]["reason"]
    assert rows[1]["support"] == check_attention("sigmoid", dtypes=(torch.float64,)).support
    assert "<th>probabilities</th>" in (tmp_path / "out" / "report.html").read_text()
    assert rows[0]["reason"].split(".")[0] in done.err


def test_what_is_known_is_not_measured_again(body, data, run: Run, tmp_path: Path):
    arguments = ("lab", "run", "sigmoid", "-m", body, "--data", data, "-o", tmp_path, "--section", "swap,layers")
    assert run(*arguments).code == 0
    path = tmp_path / "results.jsonl"
    first = path.read_text()
    path.write_text(first[: first.index("\n") + 20])  # killed while it wrote the second row
    again = run(*arguments)
    assert again.code == 0
    lines = path.read_text().splitlines()
    assert lines[0] == first.splitlines()[0]
    assert [json.loads(line)["section"] for line in lines] == ["swap", "layers"]
    other = tmp_path / "stsb-en-test.csv"
    other.write_text((data / other.name).read_text().replace("1.0", "2.0"))
    run("lab", "run", "sigmoid", "-m", body, "--data", other.parent, "-o", tmp_path, "--section", "swap")
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 3  # other data, another key


def test_the_page_needs_nothing_else(body, data, run: Run, tmp_path: Path):
    done = run("lab", "run", "sink", "sigmoid", "-m", body, "--data", data, "-o", tmp_path, "--section", "swap,layers")
    page = (tmp_path / "report.html").read_text()
    assert done.out.splitlines()[-1] == str(tmp_path / "report.html")
    assert "src=" not in page
    assert "href" not in page
    score = next(line.split("\t") for line in done.out.splitlines() if line.startswith("sigmoid\tswap"))[4]
    assert f"{float(score):.2f}" in page
    assert "minitrans lab run sink sigmoid" in page


def test_mistakes_are_one_line(body, data, run: Run, tmp_path: Path):
    usual = ("-m", body, "--out", tmp_path)
    run("lab", "run", "nonsense", *usual, "--data", data).refused("unknown attention variant 'nonsense'")
    run("lab", "run", "sink", *usual, "--data", data, "--section", "swop").refused("--section", "swop")
    run("lab", "run", "sink", *usual, "--data", tmp_path).refused("stsb-en-test.csv")
    run("lab", "run", "{", *usual, "--data", data).refused("JSON")
    run("lab", "run", "sink", *usual, "--data", data, "--set", "swap.size=2").refused("SECTION.OPTION", "swap.size")


def test_seeds_are_for_what_they_change(body, data, run: Run, tmp_path: Path):
    usual = ("-m", body, "--data", data, "-o", tmp_path, "--seeds", 2)
    assert run("lab", "run", "performer", "sink", *usual).code == 0
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    found = [(row["variant"], row["section"], row["seed"]) for row in rows]
    assert found == [
        ("performer", "gate", 0), ("performer", "swap", 0), ("performer", "swap", 1), ("sink", "gate", 0), ("sink", "swap", 0)
    ]  # fmt: skip
    first, second = (row["cosine"] for row in rows if row["variant"] == "performer" and row["section"] == "swap")
    assert first != second
    assert "±" in (tmp_path / "report.html").read_text()


def test_the_exact_model_is_scored_once(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bench.keeps_exact = tmp_path / "exact.pt"
    found = bench.exact
    other = Bench(bench.encoder, bench.files, tmp_path / "exact.pt")
    monkeypatch.setattr(Bench, "score", lambda _: pytest.fail("scored again"))
    assert other.exact[0] == found[0]
    assert torch.equal(other.exact[1], found[1])


def test_some_pairs_are_spread_over_all(bench: Bench):
    score, vectors = bench.score(5)
    assert bench.exact_on(5)[0] == pytest.approx(score, abs=1e-6)
    torch.testing.assert_close(bench.exact_on(5)[1], vectors)
    torch.testing.assert_close(vectors[:5], bench.exact[1][:20:4])
    assert bench.exact_on(0)[0] == bench.exact_on(1000)[0] == pytest.approx(bench.exact[0])
    subject = read_subjects(["sigmoid"])[0]
    assert layers(bench, subject, 0, pairs=5)["exact"] == pytest.approx(score, abs=1e-6)


def test_a_variant_of_an_even_number_of_heads_passes_with_four():
    (subject,) = read_subjects(["differential"])
    assert gate(Bench(None, {}), subject, 0)["passed"] > 50
