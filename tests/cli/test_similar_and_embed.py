"""`embed` and `similar`, and the encoder behind them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from minitrans import AutoModel, AutoTokenizer
from tests.cli.conftest import ROOT
from tests.embedding.conftest import sentence_folder


def vector(folder: str, text: str, pooling: str = "mean") -> torch.Tensor:
    """One text by itself, without batching or padding."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    with torch.no_grad():
        states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]  # (T, D)
    made = {"mean": states.mean(0), "cls": states[0], "max": states.max(0).values}[pooling]
    return made / made.norm()


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_vectors_do_not_depend_on_batch_or_order(body: str, sentences: Path, tmp_path: Path, run, pooling: str):
    out = tmp_path / "vectors.npy"
    done = run("embed", sentences, "-m", body, "-o", out, "--batch-size", 2, "--pooling", pooling)
    assert (done.code, done.err) == (0, "")
    found = torch.from_numpy(np.load(out))
    expected = torch.stack([vector(body, line, pooling) for line in sentences.read_text().splitlines()])
    assert found.shape == (5, 24)
    assert torch.allclose(found, expected, atol=1e-6)


def test_jsonl_and_standard_output_are_the_same(body: str, sentences: Path, tmp_path: Path, run):
    out = tmp_path / "vectors.jsonl"
    assert run("embed", sentences, "-m", body, "-o", out).code == 0
    printed = run("embed", "-", "-m", body, stdin=sentences.read_bytes())
    assert printed.out == out.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert [row["text"] for row in rows] == sentences.read_text().splitlines()
    assert len(rows[0]["vector"]) == 24


def test_raw_vectors_have_their_own_length(body: str, sentences: Path, run):
    rows = [json.loads(line)["vector"] for line in run("embed", sentences, "-m", body, "--raw").out.splitlines()]
    scaled = [json.loads(line)["vector"] for line in run("embed", sentences, "-m", body).out.splitlines()]
    for raw, unit in zip(rows, scaled, strict=True):
        assert np.linalg.norm(unit) == pytest.approx(1.0, abs=1e-5)
        assert np.allclose(np.array(raw) / np.linalg.norm(raw), unit, atol=1e-6)
    assert not np.isclose(np.linalg.norm(rows[0]), 1.0)


def test_similar_ranks_by_cosine(body: str, sentences: Path, run):
    done = run("similar", "the cat sat", sentences, "-m", body)
    rows = [line.split("\t") for line in done.out.splitlines()]
    lines = sentences.read_text().splitlines()
    query = vector(body, "the cat sat")
    scores = {number: float(query @ vector(body, line)) for number, line in enumerate(lines, 1) if line}
    assert [int(row[1]) for row in rows] == sorted(scores, key=lambda number: -scores[number])
    for score, number, text in rows:
        assert float(score) == pytest.approx(scores[int(number)], abs=1e-5)
        assert text == lines[int(number) - 1]
    first = json.loads(run("similar", "the cat sat", sentences, "-m", body, "-k", 1, "--json").out)
    assert first == {"score": float(rows[0][0]), "line": int(rows[0][1]), "text": rows[0][2]}


def test_long_texts_are_cut_and_said_to_be(body: str, run):
    done = run("embed", "-", "-m", body, stdin=b"cat\n" + b"the old city " * 40 + b"\n")
    assert done.code == 0
    assert done.err == "minitrans: note: cut to 32 tokens: 1 of 2 texts\n"


@pytest.mark.parametrize(
    ("attention", "backend"),
    [("full", "eager"), ("full", "online_softmax"), ('{"name": "sliding_window", "window": 40}', "sdpa")],
)
def test_attention_and_backend_are_options(body: str, sentences: Path, run, attention: str, backend: str):
    plain = [json.loads(line)["vector"] for line in run("embed", sentences, "-m", body).out.splitlines()]
    done = run("embed", sentences, "-m", body, "--attention", attention, "--backend", backend, "--threads", 1)
    assert done.err == ""
    assert np.allclose([json.loads(line)["vector"] for line in done.out.splitlines()], plain, atol=1e-5)
    narrow = run("embed", sentences, "-m", body, "--attention", '{"name": "sliding_window", "window": 2}')
    assert not np.allclose(json.loads(narrow.out.splitlines()[0])["vector"], plain[0], atol=1e-3)


WINDOW = '{"name": "sliding_window", "window": 2}'


@pytest.mark.parametrize(
    ("attention", "same_as"),
    [
        ("minitrans.attention.variants.sink:Sink", "sink"),
        ('{"name": "minitrans.attention.variants.sliding_window:SlidingWindow", "window": 2}', WINDOW),
        (f"[{WINDOW}]", WINDOW),
        (f'{{"layers": {{"0-": {WINDOW}}}}}', WINDOW),
    ],
)
def test_an_attention_is_a_name_a_place_or_json(body: str, sentences: Path, run, attention: str, same_as: str):
    plain, one, other = (
        run("embed", sentences, "-m", body, *more)
        for more in ([], ["--attention", attention], ["--attention", same_as])
    )
    assert one.code == 0
    assert ("note: " in one.err and "initialised at random" in one.err) == (same_as == "sink")
    assert one == other != plain


def test_an_attention_of_ones_own_lies_in_the_folder_one_works_in(body: str, sentences: Path, tmp_path: Path, run):
    (tmp_path / "my_attention.py").write_text(
        "from minitrans.attention.variants.sliding_window import SlidingWindow\n\n\nclass Narrow(SlidingWindow):\n"
        "    def __init__(self, sizes):\n        super().__init__(sizes, window=2)\n"
    )
    call = f"['embed', {str(sentences)!r}, '-m', {body!r}, '--attention', 'my_attention:Narrow']"
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"from minitrans.cli.app import main; main({call})"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stderr == ""
    expected = [
        json.loads(line) for line in run("embed", sentences, "-m", body, "--attention", WINDOW).out.splitlines()
    ]
    for line, row in zip(done.stdout.splitlines(), expected, strict=True):
        assert np.allclose(json.loads(line)["vector"], row["vector"], atol=1e-6)


def test_precision_is_an_option(body: str, sentences: Path, run):
    plain = [json.loads(line)["vector"] for line in run("embed", sentences, "-m", body).out.splitlines()]
    done = run("embed", sentences, "-m", body, "--precision", "bfloat16")
    assert done.err == ""
    found = [json.loads(line)["vector"] for line in done.out.splitlines()]
    assert found != plain
    assert np.allclose(found, plain, atol=0.05)
    first, precise = (
        run("similar", "the cat sat", sentences, "-m", body, *more).out for more in ([], ["--precision", "float32"])
    )
    assert [line.split("\t")[1:] for line in precise.splitlines()] == [
        line.split("\t")[1:] for line in first.splitlines()
    ]
    run("embed", sentences, "-m", body, "--precision", "fp8").refused(
        "precision must be one of 'float32', 'bfloat16', 'int8', got 'fp8'"
    )


def test_dtype_is_an_option(body: str, sentences: Path, tmp_path: Path, run):
    out = tmp_path / "v.npy"
    assert run("embed", sentences, "-m", body, "-o", out, "--dtype", "float64").code == 0
    assert np.load(out).dtype == np.float64


def test_tabs_and_control_characters_cannot_break_a_line(body: str, run):
    done = run("similar", "cat", "-", "-m", body, stdin=b"a\tb\\c\r\r\n\x1b[31mred\n")
    rows = sorted(line.split("\t") for line in done.out.split("\n")[:-1])
    assert {row[2] for row in rows} == {"a\\tb\\\\c\\r", "\x1b[31mred"}
    assert all(len(row) == 3 for row in rows)


def test_the_recipe_counts(body: str, tmp_path: Path, sentences: Path, run):
    folder = sentence_folder(body, tmp_path / "m", {"pooling_mode": "cls"}, length={"max_seq_length": 4})
    done = run("embed", sentences, "-m", folder)
    rows = [json.loads(line)["vector"] for line in done.out.splitlines()]
    assert np.allclose(rows[1], vector(folder, "paris", "cls"), atol=1e-6)
    assert np.allclose(rows[0], vector(folder, "the cat", "cls"), atol=1e-6)
    assert "cut to 4 tokens: 2 of 5 texts" in done.err
    mean = run("embed", sentences, "-m", folder, "--pooling", "mean")
    assert np.allclose(json.loads(mean.out.splitlines()[1])["vector"], vector(folder, "paris"), atol=1e-6)
    prompted = run("embed", "-", "-m", folder, "--prompt", "the ", stdin=b"cat\n")
    assert np.allclose(json.loads(prompted.out)["vector"], vector(folder, "the cat", "cls"), atol=1e-6)


def test_a_dense_layer_and_a_body_of_its_own(body: str, tmp_path: Path, sentences: Path, run):
    folder = sentence_folder(body, tmp_path / "m", head=("Dense", "Normalize"))
    out = tmp_path / "v.npy"
    assert run("embed", sentences, "-m", folder, "-o", out).out == f"{out}\t5 vectors of 7 numbers\n"
    assert np.load(out).shape == (5, 7)
