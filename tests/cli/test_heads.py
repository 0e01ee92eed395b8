"""`fill-mask`, `classify`, `tag` and `answer` on tiny models, against the reference's pipelines and plain loops."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from minitrans import (
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    AutoTokenizer,
    RobertaConfig,
    RobertaModel,
)
from minitrans.cli.loading import load
from minitrans.cli.options import Runtime
from minitrans.cli.spans import Span, tagged_words, word_spans
from minitrans.embedding import longest_input

NAMES = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}
TEXT = "the cat , ada lovelace was born in paris and london , dog and snow ."


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


# -- tag ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tagger(tiny) -> str:
    return tiny("BertForTokenClassification", num_labels=5, id2label=NAMES)


def span(label: str, start: int, end: int, score: float = 1.0) -> Span:
    return Span(label, start, end, score)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], []),
        ([span("O", 0, 1)], []),
        ([span("B-PER", 0, 3, 0.5), span("I-PER", 4, 9, 1.0)], [span("PER", 0, 9, 0.75)]),
        ([span("B-PER", 0, 3), span("B-PER", 4, 9)], [span("PER", 0, 3), span("PER", 4, 9)]),
        ([span("B-PER", 0, 3), span("I-LOC", 4, 9)], [span("PER", 0, 3), span("LOC", 4, 9)]),
        ([span("I-PER", 0, 3), span("I-PER", 4, 9)], [span("PER", 0, 9)]),
        ([span("B-LOC", 0, 3), span("O", 4, 5), span("I-LOC", 6, 9)], [span("LOC", 0, 3), span("LOC", 6, 9)]),
        ([span("NOUN", 0, 3), span("NOUN", 4, 9)], [span("NOUN", 0, 3), span("NOUN", 4, 9)]),
        ([span("X-Y-Z", 0, 3)], [span("X-Y-Z", 0, 3)]),
        ([span("B-A-B", 0, 3), span("I-A-B", 4, 5)], [span("A-B", 0, 5)]),
    ],
)
def test_words_become_spans(words: list[Span], expected: list[Span]):
    assert word_spans(words) == expected


def test_words_have_the_class_of_their_first_token(tagger: str):
    loaded = load(Runtime(model=tagger), "AutoModelForTokenClassification")
    text = "Ada walked cats , walking dogs ."
    tokenizer, model = AutoTokenizer.from_pretrained(tagger), AutoModelForTokenClassification.from_pretrained(tagger)
    batch = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**batch).logits.double().softmax(-1)[0]
    words = [(w.group(), *w.span()) for w in __import__("re").finditer(r"\S+", text)]
    found = tagged_words(loaded, text, NAMES, 8)
    assert [(text[w.start : w.end], w.start, w.end) for w in found] == words
    for word in found:
        first = batch.char_to_token(word.start)
        assert word.label == NAMES[int(probabilities[first].argmax())]
        assert word.score == pytest.approx(float(probabilities[first].max()))


def test_tag_prints_spans_with_character_offsets(tagger: str, run):
    loaded = load(Runtime(model=tagger), "AutoModelForTokenClassification")
    expected = word_spans(tagged_words(loaded, TEXT, NAMES, 8))
    assert {item.label for item in expected} >= {"PER"}
    rows = lines(run("tag", TEXT, TEXT, "-m", tagger))
    assert len(rows) == 2 * len(expected)
    for row, item in zip(rows, expected * 2, strict=True):
        assert row[1:4] == [item.label, str(item.start), str(item.end)]
        assert row[5] == TEXT[item.start : item.end]


def test_long_texts_are_tagged_in_windows(tagger: str):
    loaded = load(Runtime(model=tagger), "AutoModelForTokenClassification")
    text = " ".join(f"{word} in london ," for word in ["ada", "lovelace", "cat", "dog"] * 8)
    found = tagged_words(loaded, text, NAMES, 3)
    assert [text[word.start : word.end] for word in found] == text.split()
    tokenizer, model = loaded.tokenizer, loaded.model
    windows = tokenizer(text, truncation=True, max_length=32, stride=8, return_overflowing_tokens=True,
                        return_offsets_mapping=True, padding=True, return_tensors="pt")  # fmt: skip
    count = len(windows["input_ids"])
    assert count > 3
    with torch.no_grad():
        logits = model(**{k: v for k, v in windows.items() if k in tokenizer.model_input_names}).logits
    for word in found:
        best = max(
            (min(t - 1, int(windows["attention_mask"][w].sum()) - 2 - t), -w, t)
            for w in range(count)
            for t in range(1, 31)
            if windows["offset_mapping"][w, t].tolist() == [word.start, word.end]
        )
        assert word.label == NAMES[int(logits[-best[1], best[2]].argmax())]


# -- answer ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def reader(tiny) -> str:
    return tiny("BertForQuestionAnswering")


def all_spans(folder: str, question: str, context: str, longest: int, stride: int) -> dict[tuple[int, int], float]:
    """Every admissible span with its probability, by plain loops over the windows."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForQuestionAnswering.from_pretrained(folder)
    windows = tokenizer(question, context, truncation="only_second", max_length=32, stride=stride,
                        return_overflowing_tokens=True)  # fmt: skip
    scores: dict[tuple[int, int], list[float]] = {}
    for row, ids in enumerate(windows["input_ids"]):
        with torch.no_grad():
            out = model(torch.tensor([ids]), token_type_ids=torch.tensor([windows["token_type_ids"][row]]))
        parts = windows.sequence_ids(row)
        for i in range(len(ids)):
            for j in range(i, min(i + longest, len(ids))):
                if parts[i] == 1 and parts[j] == 1:
                    place = windows.token_to_chars(row, i).start, windows.token_to_chars(row, j).end
                    scores.setdefault(place, []).append(float(out.start_logits[0, i] + out.end_logits[0, j]))
    total = sum(torch.tensor(x).double().exp().sum() for x in scores.values())
    return {place: float(torch.tensor(x).double().exp().sum() / total) for place, x in scores.items()}


@pytest.mark.parametrize(
    ("context", "longest"),
    [("ada lovelace was born in london .", 30), ("ada lovelace was born in london .", 2),
     ("the cat sat on the mat , " * 6 + "ada was born in london , a city", 5)],
)  # fmt: skip
def test_answers_are_the_best_spans_of_the_context(reader: str, run, context: str, longest: int):
    question = "where was ada born ?"
    arguments = ("answer", "-q", question, "-c", context, "-m", reader, "-k", 4, "--stride", 6, "--batch-size", 2)
    rows = lines(run(*arguments, "--max-answer-tokens", longest))
    expected = all_spans(reader, question, context, longest, 6)
    chosen: list[tuple[int, int]] = []
    for place in sorted(expected, key=lambda place: -expected[place]):
        if all(place[1] <= a or place[0] >= b for a, b in chosen):
            chosen.append(place)
    assert [(int(row[1]), int(row[2])) for row in rows] == chosen[:4]
    for score, start, end, text in rows:
        assert float(score) == pytest.approx(expected[int(start), int(end)], abs=2e-5)
        assert text == context[int(start) : int(end)]


def test_the_context_may_be_a_file(reader: str, tmp_path: Path, run):
    file = tmp_path / "context.txt"
    file.write_text(TEXT)
    given = run("answer", "-q", "who ?", "-c", TEXT, "-m", reader, "--json")
    assert run("answer", "-q", "who ?", "--context-file", file, "-m", reader, "--json").out == given.out
    assert run("answer", "-q", "who ?", "--context-file", "-", "-m", reader, "--json", stdin=TEXT.encode()) == given


def test_questions_that_cannot_be_asked(reader: str, run):
    run("answer", "-q", "who " * 40, "-c", TEXT, "-m", reader).refused("--question", "found 40 tokens")
    run("answer", "-q", "who ?", "-m", reader).refused("--context", "neither")
    run("answer", "-q", "who ?", "-c", "a", "--context-file", "b", "-m", reader).refused("both")
    run("answer", "-q", "", "-c", TEXT, "-m", reader).refused("--question: expected a text")


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


def test_roberta_has_fewer_places_than_positions():
    model = RobertaModel(
        RobertaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
                      max_position_embeddings=34, pad_token_id=1)
    )  # fmt: skip

    class Stub:
        model_max_length = 10**30

    assert longest_input(model, Stub()) == 32
