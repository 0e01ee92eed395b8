"""`tag` and `answer` on tiny models, against plain loops; and vocabularies of other kinds than WordPiece."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

import minitrans
from minitrans import (
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    AutoTokenizer,
    RobertaConfig,
)
from minitrans.pipelines.token_classification import Span, word_spans

NAMES = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}
TEXT = "the cat , ada lovelace was born in paris and london , dog and snow ."


def lines(result) -> list[list[str]]:
    assert (result.code, result.err) == (0, ""), result
    return [line.split("\t") for line in result.out.splitlines()]


# -- tag ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tagger(tiny) -> str:
    return tiny("BertForTokenClassification", num_labels=5, id2label=NAMES)


def tagged_words(pipe, text: str, batch_size: int) -> list[Span]:
    """The words of a text, each with the class and the probability of its first token."""
    each = partial(pipe._each, batch_size=batch_size, progress=None)
    return pipe.words(text, pipe.tokens([text], each, stride=pipe.max_length // 4)[0])


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
    pipe = minitrans.pipeline("token-classification", tagger)
    text = "Ada walked cats , walking dogs ."
    tokenizer, model = AutoTokenizer.from_pretrained(tagger), AutoModelForTokenClassification.from_pretrained(tagger)
    batch = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        probabilities = model(**batch).logits.double().softmax(-1)[0]
    words = [(w.group(), *w.span()) for w in __import__("re").finditer(r"\S+", text)]
    found = tagged_words(pipe, text, 8)
    assert [(text[w.start : w.end], w.start, w.end) for w in found] == words
    for word in found:
        first = batch.char_to_token(word.start)
        assert word.label == NAMES[int(probabilities[first].argmax())]
        assert word.score == pytest.approx(float(probabilities[first].max()))


def test_tag_prints_spans_with_character_offsets(tagger: str, run):
    pipe = minitrans.pipeline("token-classification", tagger)
    expected = word_spans(tagged_words(pipe, TEXT, 8))
    assert {item.label for item in expected} >= {"PER"}
    rows = lines(run("tag", TEXT, TEXT, "-m", tagger))
    assert len(rows) == 2 * len(expected)
    for row, item in zip(rows, expected * 2, strict=True):
        assert row[1:4] == [item.label, str(item.start), str(item.end)]
        assert row[5] == TEXT[item.start : item.end]


def test_long_texts_are_tagged_in_windows(tagger: str):
    pipe = minitrans.pipeline("token-classification", tagger)
    text = " ".join(f"{word} in london ," for word in ["ada", "lovelace", "cat", "dog"] * 8)
    found = tagged_words(pipe, text, 3)
    assert [text[word.start : word.end] for word in found] == text.split()
    tokenizer, model = pipe.tokenizer, pipe.model
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
    run("answer", "-q", "who " * 40, "-c", TEXT, "-m", reader).refused(
        "question: expected one that leaves room in 32 tokens", "found 40 tokens"
    )
    run("answer", "-q", "who ?", "-m", reader).refused("--context", "neither")
    run("answer", "-q", "who ?", "-c", "a", "--context-file", "b", "-m", reader).refused("both")
    run("answer", "-q", "", "-c", TEXT, "-m", reader).refused("--question: expected a text")


# -- another kind of vocabulary ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def byte_level(shared_data: Path, tmp_path_factory: pytest.TempPathFactory):
    """byte_level("RobertaForMaskedLM"): a tiny RoBERTa with the real vocabulary of roberta-base."""

    def make(class_name: str, **changes: object) -> str:
        folder = tmp_path_factory.mktemp("roberta")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = getattr(minitrans, class_name)(
                RobertaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
                              max_position_embeddings=34, initializer_range=0.5, **changes)
            )  # fmt: skip
        model.save_pretrained(folder)
        for file in (shared_data / "tokenizers" / "roberta-base").iterdir():
            if file.name in ("vocab.json", "merges.txt"):
                (folder / file.name).write_bytes(file.read_bytes())
        return str(folder)

    return make


def test_a_mask_that_swallows_its_space(byte_level, run):
    folder = byte_level("RobertaForMaskedLM")
    rows = [
        json.loads(line)
        for line in run("fill-mask", "Paris is the <mask> of France.", "-m", folder, "--json").out.splitlines()
    ]
    assert len(rows) == 5
    for row in rows:
        assert row["filled"] == f"Paris is the {row['token']} of France."
    run("fill-mask", "Paris is the [MASK] of France.", "-m", folder).refused("<mask>")


def test_offsets_leave_out_the_space_before_a_word(byte_level):
    folder = byte_level("RobertaForTokenClassification", num_labels=5, id2label=NAMES)
    pipe = minitrans.pipeline("token-classification", folder)
    text = "  Ada Lovelace's  naïve\tnotebooks, in London. " + "Supercalifragilistic! " * 9
    found = tagged_words(pipe, text, 4)
    assert "".join(text[word.start : word.end] for word in found) == "".join(text.split())
    assert all(text[word.start : word.end].strip() == text[word.start : word.end] for word in found)


def test_answers_in_a_byte_level_text(byte_level, run):
    folder = byte_level("RobertaForQuestionAnswering")
    context = "Ada was born in London. " * 12
    rows = lines(run("answer", "-q", "Where?", "-c", context, "-m", folder, "--stride", 4, "-k", 5))
    assert len(rows) == 5
    for _, start, end, answer in rows:
        assert answer == context[int(start) : int(end)] == answer.strip()


def test_a_vocabulary_that_counts_the_space_to_the_word(tiny, run):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *("\u2581" + word for word in ("Ada", "in", "London"))]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = [("[CLS]", 2), ("[SEP]", 3)]
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", specials)
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    folders = [
        Path(tiny("BertForTokenClassification", "meta-tag", num_labels=5, id2label=NAMES)),
        Path(tiny("BertForQuestionAnswering", "meta-answer")),
    ]
    for folder in folders:
        (folder / "vocab.txt").unlink()
        backend.save(str(folder / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **roles}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    text = "Ada  in London"
    pipe = minitrans.pipeline("token-classification", str(folders[0]))
    assert [(w.start, w.end) for w in tagged_words(pipe, text, 4)] == [(0, 3), (5, 7), (8, 14)]
    rows = lines(run("answer", "-q", "Ada", "-c", text, "-m", folders[1], "--max-answer-tokens", 1, "-k", 9))
    assert sorted((int(row[1]), int(row[2])) for row in rows) == [(0, 3), (5, 7), (8, 14)]
