"""`tag` and `answer` on tiny models, against plain loops; and vocabularies of other kinds than WordPiece."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import minitrans
from minitrans import AutoModelForQuestionAnswering, AutoTokenizer
from tests.pipelines.test_words import tagged_words

NAMES = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}
TEXT = "the cat , ada lovelace was born in paris and london , dog and snow ."


def lines(result) -> list[list[str]]:
    assert (result.code, result.err) == (0, ""), result
    return [line.split("\t") for line in result.out.splitlines()]


# -- tag ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tagger(tiny) -> str:
    return tiny("BertForTokenClassification", "tagger", num_labels=5, id2label=NAMES)


def test_tag_prints_spans_with_character_offsets(tagger: str, run):
    expected = minitrans.pipeline("token-classification", tagger)(TEXT, aggregation_strategy="words")
    assert {span["entity_group"] for span in expected} >= {"PER"}
    rows = lines(run("tag", TEXT, TEXT, "-m", tagger))
    assert len(rows) == 2 * len(expected)
    for number, (row, span) in enumerate(zip(rows, expected * 2, strict=True)):
        assert row[:4] == [str(1 + number // len(expected)), span["entity_group"], str(span["start"]), str(span["end"])]
        assert float(row[4]) == pytest.approx(span["score"], abs=1e-6)
        assert row[5] == TEXT[span["start"] : span["end"]]


# -- answer ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def reader(tiny) -> str:
    return tiny("BertForQuestionAnswering")


def all_spans(
    folder: str, question: str, context: str, longest: int, stride: int, none: bool
) -> dict[tuple[int, int], float]:
    """Every admissible span with its probability, by plain loops over the windows; (0, 0) is no answer, where that is one."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForQuestionAnswering.from_pretrained(folder)
    windows = tokenizer(question, context, truncation="only_second", max_length=32, stride=stride,
                        return_overflowing_tokens=True)  # fmt: skip
    scores: dict[tuple[int, int], list[float]] = {}
    for row, ids in enumerate(windows["input_ids"]):
        with torch.no_grad():
            out = model(torch.tensor([ids]), token_type_ids=torch.tensor([windows["token_type_ids"][row]]))
        parts = windows.sequence_ids(row)
        if none:
            nothing = float(out.start_logits[0, 0] + out.end_logits[0, 0])
            scores[0, 0] = [min([nothing, *scores.get((0, 0), [])])]
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
@pytest.mark.parametrize("none", [False, True])
def test_answers_are_the_best_spans_of_the_context(reader: str, run, context: str, longest: int, none: bool):
    question = "where was ada born ?"
    arguments = ("answer", "-q", question, "-c", context, "-m", reader, "-k", 4, "--stride", 6, "--batch-size", 2)
    rows = lines(run(*arguments, "--max-answer-tokens", longest, *["--may-be-none"] * none))
    expected = all_spans(reader, question, context, longest, 6, none)
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
    words = tagged_words(minitrans.pipeline("token-classification", str(folders[0])), text, 4)
    assert [(word.start, word.end) for word in words] == [(0, 3), (5, 7), (8, 14)]
    rows = lines(run("answer", "-q", "Ada", "-c", text, "-m", folders[1], "--max-answer-tokens", 1, "-k", 9))
    assert sorted((int(row[1]), int(row[2])) for row in rows) == [(0, 3), (5, 7), (8, 14)]
