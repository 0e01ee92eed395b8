"""`embed` and `similar`, and the encoder behind them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from minitrans import AutoModel, AutoTokenizer, BertModel
from minitrans.embedding import PoolingRecipe, SentenceEncoder, length_sorted_batches, pool, read_recipe


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


def test_dtype_is_an_option(body: str, sentences: Path, tmp_path: Path, run):
    out = tmp_path / "v.npy"
    assert run("embed", sentences, "-m", body, "-o", out, "--dtype", "float64").code == 0
    assert np.load(out).dtype == np.float64


def test_pool_ignores_padding_on_either_side():
    states = torch.randn(2, 5, 3, dtype=torch.float64)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    for kind, expected in {
        "mean": (states[0, 2:].mean(0), states[1, :2].mean(0)),
        "cls": (states[0, 2], states[1, 0]),
        "max": (states[0, 2:].amax(0), states[1, :2].amax(0)),
    }.items():
        assert torch.allclose(pool(states, mask, kind), torch.stack(expected))


def test_batches_hold_everything_once_and_the_longest_first():
    lengths = [3, 9, 1, 9, 4]
    assert list(length_sorted_batches(lengths, 2)) == [[1, 3], [4, 0], [2]]


def test_chunks_keep_the_order(body: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("minitrans.embedding._CHUNK", 1)
    encoder = SentenceEncoder(AutoModel.from_pretrained(body), AutoTokenizer.from_pretrained(body), PoolingRecipe())
    texts = ["the cat", "snow", "the old city in france", "dog"]
    done: list[int] = []
    found = encoder.encode(texts, batch_size=3, progress=done.append)
    assert torch.allclose(found, torch.stack([vector(body, text) for text in texts]), atol=1e-6)
    assert sum(done) == 4


# -- what a folder of sentence-transformers says -----------------------------------------------------------------------

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def recipe_folder(folder: Path, modules: object, pooling: object, length: object = None) -> Path:
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if length is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps(length))
    return folder


def test_the_real_recipe_is_read(minilm: Path):
    assert read_recipe(minilm) == PoolingRecipe("mean", 256, False)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"embedding_dimension": 24, "pooling_mode": "cls"}, "cls"),
    ],
)
def test_the_folder_chooses_the_pooling(tmp_path: Path, pooling: object, expected: str):
    folder = recipe_folder(tmp_path / "m", MODULES, pooling, {"max_seq_length": 5, "do_lower_case": True})
    assert read_recipe(folder) == PoolingRecipe(expected, 5, True)


@pytest.mark.parametrize(
    ("modules", "pooling", "length", "message"),
    [
        (MODULES, {"pooling_mode_lasttoken": True}, None, "pooling_mode_lasttoken is not offered, only one of mean"),
        (MODULES, {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, None, "is not offered"),
        (MODULES, {}, None, "is not offered"),
        ([*MODULES, {"type": "x.Dense", "path": "2_Dense"}], {"pooling_mode": "mean"}, None, "'Dense' is not offered"),
        ([{"type": "x.Pooling", "path": "../other"}], {}, None, "expected a path inside the folder"),
        ({"type": 1}, {}, None, "expected a list of modules"),
        (MODULES, {"pooling_mode": "mean"}, {"max_seq_length": "256"}, "max_seq_length: expected a number above 2"),
        (MODULES, {"pooling_mode": "mean"}, {"do_lower_case": 1}, "do_lower_case: expected true or false"),
    ],
)
def test_recipes_that_are_refused(tmp_path: Path, modules: object, pooling: object, length: object, message: str):
    folder = recipe_folder(tmp_path / "m", modules, pooling, length)
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        read_recipe(folder)


def test_the_recipe_counts(tiny, sentences: Path, run):
    folder = tiny("BertModel", "recipe")
    recipe_folder(Path(folder) / "x", MODULES, {"pooling_mode": "cls"}, {"max_seq_length": 4})
    for name in ("modules.json", "sentence_bert_config.json", "1_Pooling"):
        (Path(folder) / "x" / name).rename(Path(folder) / name)
    done = run("embed", sentences, "-m", folder)
    rows = [json.loads(line)["vector"] for line in done.out.splitlines()]
    assert np.allclose(rows[1], vector(folder, "paris", "cls"), atol=1e-6)
    assert np.allclose(rows[0], vector(folder, "the cat", "cls"), atol=1e-6)
    assert "cut to 4 tokens: 2 of 5 texts" in done.err
    mean = run("embed", sentences, "-m", folder, "--pooling", "mean")
    assert np.allclose(json.loads(mean.out.splitlines()[1])["vector"], vector(folder, "paris"), atol=1e-6)


def test_wrong_arguments_of_the_encoder(body: str):
    model, tokenizer = BertModel.from_pretrained(body), AutoTokenizer.from_pretrained(body)
    with pytest.raises(ValueError, match="pooling must be one of mean, cls, max, got 'sum'"):
        SentenceEncoder(model, tokenizer, PoolingRecipe("sum"))
    with pytest.raises(ValueError, match="expected at least one text"):
        SentenceEncoder(model, tokenizer, PoolingRecipe()).encode([])


def test_tabs_and_control_characters_cannot_break_a_line(body: str, run):
    done = run("similar", "cat", "-", "-m", body, stdin=b"a\tb\\c\r\r\n\x1b[31mred\n")
    rows = sorted(line.split("\t") for line in done.out.split("\n")[:-1])
    assert {row[2] for row in rows} == {"a\\tb\\\\c\\r", "\x1b[31mred"}
    assert all(len(row) == 3 for row in rows)
