"""Each task as a user runs it: files in, a model out that has learnt what the files say and scores again as in its training."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from minitrans import pipeline
from minitrans.training.configuration import configure
from minitrans.training.fine_tuning import evaluate_checkpoint, fine_tune
from minitrans.training.tasks import RECIPES
from minitrans.training.tokenizers import train_tokenizer

WORDS = ["ada", "bob", "cat", "dog", "elm", "fox", "gnu", "hen", "ibis", "jay"]
GOOD, BAD = WORDS[:3], WORDS[7:]
ENCODER = {
    "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 64,
}  # fmt: skip
FAST = {"learning_rate": 3e-3, "batch_size": 16, "epochs": 4}


def said(draw: random.Random) -> list[str]:
    """Words of no class."""
    return [draw.choice(WORDS[3:7]) for _ in range(draw.randrange(2, 7))]


def marked(draw: random.Random) -> tuple[list[str], bool]:
    """Words, of which one is good or bad."""
    words, good = said(draw), draw.random() < 0.5
    words[draw.randrange(len(words))] = draw.choice(GOOD if good else BAD)
    return words, good


def classify(draw: random.Random, rows: int) -> str:
    table = [marked(draw) for _ in range(rows)]
    return "label\tsentence\n" + "".join(f"{'fine' if good else 'awful'}\t{' '.join(words)}\n" for words, good in table)


def regress(draw: random.Random, rows: int) -> str:
    table = [marked(draw) for _ in range(rows)]
    return "text,label\n" + "".join(f"{' '.join(words)},{2.5 if good else -1}\n" for words, good in table)


def tag(draw: random.Random, rows: int) -> str:
    kinds = {**dict.fromkeys(GOOD, "B-good"), **dict.fromkeys(BAD, "B-bad")}
    return "\n".join("".join(f"{word}\t{kinds.get(word, 'O')}\n" for word in marked(draw)[0]) for _ in range(rows))


def answer(draw: random.Random, rows: int) -> str:
    """Which word is good."""
    asked = []
    for number in range(rows):
        words = said(draw)
        place = draw.randrange(len(words))
        words[place] = draw.choice(GOOD)
        found = {"text": words[place], "answer_start": len(" ".join([*words[:place], ""]))}
        asked.append({"context": " ".join(words), "qas": [{"id": str(number), "question": "jay", "answers": [found]}]})
    return json.dumps({"data": [{"paragraphs": asked}]})


def lm(draw: random.Random, rows: int) -> str:
    """Every good word is followed by a bad one."""
    return "".join(f"{draw.choice(GOOD)} hen {' '.join(said(draw))} {draw.choice(GOOD)} hen\n" for _ in range(rows))


def documents(draw: random.Random, rows: int) -> str:
    """Each with sentences of its own word."""
    kinds = [draw.choice(WORDS) for _ in range(rows)]
    return "\n".join("".join(f"{kind} cat {kind} dog\n" for _ in range(3)) for kind in kinds)


def seq2seq(draw: random.Random, rows: int) -> str:
    """What a text is."""
    table = [marked(draw) for _ in range(rows)]
    told = (
        {"source": " ".join(words), "target": "elm fox gnu dog" if good else "jay hen ibis elm"}
        for words, good in table
    )
    return "".join(json.dumps(row) + "\n" for row in told)


def embed(draw: random.Random, rows: int) -> str:
    """Alike are texts of the same class."""
    table = [(marked(draw), marked(draw)) for _ in range(rows)]
    rows_of = (f"{' '.join(one)},{' '.join(other)},{5 if a == b else 0}\n" for (one, a), (other, b) in table)
    return "sentence1,sentence2,score\n" + "".join(rows_of)


PAIR = {
    "model_type": "bart", "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "dropout": 0.0,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
}  # fmt: skip
DECODER = {
    "model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64,
}  # fmt: skip

# task -> what its file is called, who writes it, its settings, the score and what it must reach
CASES: dict[str, tuple[str, Callable[[random.Random, int], str], dict[str, Any], str, float]] = {
    "classify": ("x.tsv", classify, {}, "accuracy", 90),
    "regress": ("x.csv", regress, {}, "spearman", 80),
    "tag": ("x.conll", tag, {}, "f1", 90),
    "answer": ("x.json", answer, {"epochs": 8}, "exact_match", 80),
    "mlm": ("x.txt", documents, {"epochs": 10, "max_length": 32}, "perplexity", -8),
    "electra": (
        "x.txt",
        documents,
        {"architecture": {**ENCODER, "model_type": "electra"}, "max_length": 32},
        "loss",
        -60,
    ),
    "embed": ("x.csv", embed, {}, "spearman", 80),
    "lm": ("x.txt", lm, {"architecture": DECODER, "max_length": 32, "epochs": 30}, "perplexity", -8),
    "seq2seq": (
        "x.jsonl",
        seq2seq,
        {"architecture": PAIR, "epochs": 6, "learning_rate": 5e-3, "longest_target": 8},
        "chrf",
        90,
    ),
}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    train_tokenizer(WORDS * 50, folder, vocab_size=200)
    return folder


@pytest.mark.parametrize("task", CASES)
def test_learns_and_scores_again(task: str, words: Path, tmp_path: Path):
    name, written, settings, score, enough = CASES[task]
    data, dev = tmp_path / f"train-{name}", tmp_path / f"dev-{name}"
    data.write_text(written(random.Random(1), 160), encoding="utf-8")
    dev.write_text(written(random.Random(2), 40), encoding="utf-8")
    torch.manual_seed(0)
    out = tmp_path / "out"
    given = {"architecture": ENCODER, **FAST, **settings}
    report = fine_tune(task, data, out, dev=dev, tokenizer=words, **given)
    value = report.metrics[score]
    assert value >= enough if enough > 0 else value <= -enough, report.metrics
    again = evaluate_checkpoint(out, dev)
    assert again == pytest.approx(dict(report.metrics))


def test_a_small_classifier_learns_from_a_large_one(words: Path, tmp_path: Path):
    data = tmp_path / "train.tsv"
    data.write_text(classify(random.Random(1), 160), encoding="utf-8")
    fine_tune("classify", data, tmp_path / "large", dev=data, tokenizer=words, architecture=ENCODER, **FAST)
    small = {"tokenizer": words, "architecture": {**ENCODER, "hidden_size": 16}, **FAST, "dev": data}
    alone = {**small, "hard": 0.0, "epochs": 12}  # soft targets, and no labels
    told = fine_tune("distill", data, tmp_path / "small", teacher=str(tmp_path / "large"), **alone)
    assert told.metrics["accuracy"] >= 90
    with pytest.raises(ValueError, match="teacher: say which"):
        fine_tune("distill", data, tmp_path / "none", **small)


def test_the_model_is_a_checkpoint_like_any(words: Path, tmp_path: Path):
    data = tmp_path / "train.tsv"
    data.write_text(classify(random.Random(1), 40), encoding="utf-8")
    fine_tune("classify", data, tmp_path / "out", tokenizer=words, architecture=ENCODER, max_steps=2)
    told = pipeline("text-classification", tmp_path / "out")("ada bob")
    assert told[0]["label"] in ("fine", "awful")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.pipeline("text-classification", str(tmp_path / "out"))("ada bob")
    assert theirs[0]["label"] == told[0]["label"]
    assert theirs[0]["score"] == pytest.approx(told[0]["score"], abs=1e-6)


def test_every_task_has_plain_defaults():
    for task in RECIPES:
        told = configure(task)
        assert told.recipe.best
        assert told.recipe.summary


def test_a_configuration_file(tmp_path: Path):
    toml, other = tmp_path / "a.toml", tmp_path / "a.json"
    toml.write_text('epochs = 7\nlabel = "class"\nfreeze = ["*embeddings*"]\n[architecture]\nhidden_size = 8\n')
    other.write_text('{"epochs": 7, "label": "class", "freeze": ["*embeddings*"], "architecture": {"hidden_size": 8}}')
    told = configure("classify", toml, ["learning_rate=1", "columns=a,b"])
    assert told == configure("classify", other, ["learning_rate=1.0", 'columns=["a", "b"]'])
    assert (told.settings.epochs, told.settings.learning_rate, told.settings.freeze) == (7, 1.0, ("*embeddings*",))
    assert (told.recipe.label, told.recipe.columns) == ("class", ("a", "b"))
    assert told.architecture == {"hidden_size": 8}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "a.toml: there is no 'epoch'; did you mean 'epochs'?"),
        ("epochs = 1.5", "epochs: expected a whole number, got '1.5'"),
        ("epochs = true", "epochs: expected a whole number, got 'True'"),
        ('learning_rate = "high"', "learning_rate: expected a number, got 'high'"),
        ('precision = "fp8"', "precision: expected 'float32' or 'bf16' or 'fp16', got 'fp8'"),
        ("max_length = [3]", "max_length: expected a whole number or null"),
        ("columns = [1]", "columns: expected a list of a text"),
        ("epochs = ", "expected TOML, found"),
        ("epochs = 0", "epochs must be between 1"),
        ("seed = -1", "seed must be between 0"),
        ("learning_rate = inf", "learning_rate must be between 0 and 1000"),
        ("betas = [0.9]", r"betas: expected \[a number, a number\]"),
    ],
)
def test_mistakes_in_a_configuration(text: str, message: str, tmp_path: Path):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ValueError, match="(?s)" + message.replace("?", r"\?")):
        configure("classify", tmp_path / "a.toml")
    with pytest.raises(ValueError, match="did you mean 'classify'"):
        configure("clasify")
