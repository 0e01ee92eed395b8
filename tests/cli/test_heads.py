"""`fill-mask` and `classify` on tiny models, against the reference; and models that lack a head."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from minitrans import AutoTokenizer


def lines(result) -> list[list[str]]:
    assert (result.code, result.err) == (0, ""), result
    return [line.split("\t") for line in result.out.splitlines()]


# -- fill-mask ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def masked(tiny) -> str:
    return tiny("BertForMaskedLM")


def test_fill_mask_equals_the_reference(masked: str, run):
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    text = "paris is the [MASK] of france ."
    tokenizer = transformers.BertTokenizerFast(str(Path(masked) / "vocab.txt"))
    model = transformers.BertForMaskedLM.from_pretrained(masked)
    expected = transformers.FillMaskPipeline(model=model, tokenizer=tokenizer, top_k=4)(text)
    found = [json.loads(line) for line in run("fill-mask", text, "-m", masked, "-k", 4, "--json").out.splitlines()]
    assert [row["token"] for row in found] == [row["token_str"] for row in expected]
    for row, reference in zip(found, expected, strict=True):
        assert row["score"] == pytest.approx(reference["score"], abs=2e-6)
        assert row["filled"] == text.replace("[MASK]", row["token"]).replace(" ##", "")


def test_every_mask_of_every_text_is_filled(masked: str, tmp_path: Path, run):
    file = tmp_path / "texts"
    file.write_text("[MASK] sat on [MASK]\nthe [MASK]\n")
    rows = lines(run("fill-mask", "--file", file, "-m", masked, "-k", 1))
    assert [row[:2] for row in rows] == [["1", "1"], ["1", "2"], ["2", "1"]]
    assert rows[0][4].endswith(" sat on [MASK]")
    assert rows[1][4].startswith("[MASK] sat on ")


def test_a_continuation_is_joined_to_its_word(masked: str, run):
    rows = [json.loads(x) for x in run("fill-mask", "walk [MASK] .", "-m", masked, "-k", 99, "--json").out.splitlines()]
    filled = {row["token"]: row["filled"] for row in rows}
    assert filled["##ing"] == "walking ."
    assert filled["cat"] == "walk cat ."


def test_text_without_a_mask_is_refused_with_its_name(masked: str, run):
    run("fill-mask", "paris is the <mask> of france", "-m", masked).refused("[MASK]", "found none")
    run("fill-mask", "[MASK] " * 40, "-m", masked).refused("expected at most 32 tokens, found 42")


# -- classify ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [None, "is it good ?"])
def test_classify_equals_the_reference(tiny, run, pair: str | None):
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    folder = tiny("BertForSequenceClassification", num_labels=3, id2label={0: "bad", 1: "so so", 2: "good"})
    texts = ["a good film .", "bad , bad , bad", "the film was ok"]
    tokenizer = transformers.BertTokenizerFast(str(Path(folder) / "vocab.txt"))
    model = transformers.BertForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        expected = [model(**tokenizer(text, pair, return_tensors="pt")).logits.softmax(-1)[0] for text in texts]
    asked = ["--pair", pair] if pair else []
    rows = lines(run("classify", *texts, "-m", folder, "--batch-size", 2, *asked))
    assert len(rows) == 9
    for number, label, score in rows:
        index = ["bad", "so so", "good"].index(label)
        assert float(score) == pytest.approx(float(expected[int(number) - 1][index]), abs=2e-6)
    assert [row[0] for row in rows] == list("111222333")
    assert all(float(rows[i][2]) >= float(rows[i + 1][2]) for i in (0, 1, 3, 4, 6, 7))
    top = lines(run("classify", *texts, "-m", folder, "-k", 1, *asked))
    assert top == rows[::3]


def test_classify_several_labels_and_values(tiny, run):
    several = tiny("BertForSequenceClassification", "several", num_labels=3, problem_type="multi_label_classification")
    value = tiny("BertForSequenceClassification", "value", num_labels=1)
    from minitrans import AutoModelForSequenceClassification as Auto

    for folder, transform in ((several, torch.sigmoid), (value, lambda logits: logits)):
        batch = AutoTokenizer.from_pretrained(folder)("a good film", return_tensors="pt")
        with torch.no_grad():
            expected = transform(Auto.from_pretrained(folder)(**batch).logits)[0]
        found = {row[1]: float(row[2]) for row in lines(run("classify", "a good film", "-m", folder))}
        assert found == {f"LABEL_{i}": pytest.approx(float(x), abs=2e-6) for i, x in enumerate(expected)}


# -- models without the head -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("fill-mask", "[MASK]"), "masked-language-model head"),
        (("classify", "a"), "classifier of texts"),
        (("tag", "a"), "classifier of tokens"),
        (("answer", "-q", "who ?", "-c", "a"), "question-answering head"),
    ],
)
def test_a_fresh_head_is_refused(body: str, run, arguments: tuple[str, ...], what: str):
    run(*arguments, "-m", body).refused(f"{body} has no trained {what} (no ")


def test_what_a_body_lacks_is_no_trouble(masked: str, sentences: Path, run, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        done = run("similar", "cat", sentences, "-m", masked)
    assert (done.code, done.err) == (0, "")


def test_broken_weights_are_refused(tiny, tmp_path: Path, sentences: Path, run):
    from minitrans import BertModel

    model = BertModel.from_pretrained(tiny("BertModel"))
    with torch.no_grad():
        model.embeddings.LayerNorm.weight[0] = float("nan")
    model.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "vocab.txt").write_text((Path(tiny("BertModel")) / "vocab.txt").read_text())
    done = run("embed", sentences, "-m", tmp_path / "m", "-o", tmp_path / "out.npy")
    assert done.code == 2
    assert "NaN" in done.err.splitlines()[-1]
    assert not (tmp_path / "out.npy").exists()
