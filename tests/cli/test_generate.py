"""`minitrans generate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import minitrans


@pytest.fixture(scope="session")
def writer(byte_level) -> str:
    return byte_level("RobertaForCausalLM", is_decoder=True)


def test_one_text_is_streamed(writer: str, run):
    expected = minitrans.pipeline("text-generation", writer)("the cat", max_new_tokens=9)[0]["generated_text"]
    result = run("generate", "the cat", "-m", writer, "-n", 9)
    assert "\x13" in expected  # which would drive a terminal
    assert (result.code, result.out, result.err) == (0, expected.replace("\x13", "�") + "\n", "")


def test_several_are_rows(writer: str, run, tmp_path: Path):
    file = tmp_path / "prompts.txt"
    file.write_text("the cat\nAda\n", encoding="utf-8")
    found = run("generate", "--file", file, "-m", writer, "-n", 5, "--top-p", 0.9, "--seed", 4, "--count", 2, "--json")
    rows = [json.loads(line) for line in found.out.splitlines()]
    assert [row["number"] for row in rows] == [1, 1, 2, 2]
    pipe = minitrans.pipeline("text-generation", writer, do_sample=True, top_p=0.9, seed=4, num_return_sequences=2)
    assert [row["text"] for row in rows] == [
        one["generated_text"] for each in pipe(["the cat", "Ada"], max_new_tokens=5) for one in each
    ]
    beams = run("generate", "the cat", "-m", writer, "-n", 5, "--beams", 3, "--json")
    assert json.loads(beams.out)["text"].startswith("the cat")


def test_mistakes(writer: str, tiny, run):
    run("generate", "the cat", "-m", writer, "-n", 99).refused("ask for at most max_new_tokens=")
    run("generate", "the cat", "-m", writer, "--count", 2).refused("greedy search writes one text")
    run("generate", "the cat", "-m", tiny("BertForMaskedLM")).refused("is_decoder")
    run("generate", "the cat", "-m", writer, "--temperature", -1).refused("temperature must be a number above 0")
