"""Rows become examples: labels by name, tags at first tokens, answers in windows, words by offsets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from minitrans.layers.losses import IGNORED
from minitrans.models.bert import BertConfig, BertModel
from minitrans.tokenizers.auto import BertTokenizer, GPT2Tokenizer
from minitrans.training.data import encoding
from minitrans.training.data.fitting import require_fit
from minitrans.training.data.records import Records
from minitrans.training.data.source import Examples, fingerprint
from minitrans.training.data.squad import read_squad


def records(*rows: dict[str, Any]) -> Records:
    return Records("file", rows, range(2, len(rows) + 2))


def test_texts_have_classes_or_numbers(wordpiece: Any):
    rows = records({"a": "the cat", "b": "sat", "y": "good"}, {"a": "a dog", "b": "ran away", "y": "bad"})
    names = encoding.label_names(rows, "y")
    assert names == ["bad", "good"]
    examples = encoding.encode_texts(rows, wordpiece, "a", "b", label="y", names=names)
    assert [each["labels"] for each in examples.examples] == [1, 0]
    expected = wordpiece("a dog", "ran away")
    assert examples[1] == {
        "input_ids": expected["input_ids"],
        "token_type_ids": expected["token_type_ids"],
        "labels": 0,
    }
    assert examples.lengths == [6, 7]
    numbers = encoding.encode_texts(records({"a": "the", "y": "2.5"}), wordpiece, "a", label="y")
    assert numbers[0]["labels"] == 2.5
    with pytest.raises(ValueError, match=r"file: line 3: expected a label of bad, good, found 'ugly'"):
        encoding.encode_texts(
            records({"a": "the", "y": "bad"}, {"a": "the", "y": "ugly"}), wordpiece, "a", label="y", names=names
        )
    for wrong in ("ugly", "nan"):
        with pytest.raises(ValueError, match=rf"file: line 2: y: expected a number, found '{wrong}'"):
            encoding.encode_texts(records({"a": "the", "y": wrong}), wordpiece, "a", label="y")
    with pytest.raises(ValueError, match=r"file: line 2: expected a field 'text', found a, y"):
        encoding.encode_texts(records({"a": "the", "y": "ugly"}), wordpiece)


def test_numbers_of_classes_are_taken_as_they_are(wordpiece: Any):
    rows = [{"text": "the", "y": 1}, {"text": "the", "y": 0}]
    named = encoding.encode_texts(records(*rows), wordpiece, label="y", names=["bad", "good"])
    assert [each["labels"] for each in named.examples] == [1, 0]
    digits = encoding.encode_texts(records(*rows), wordpiece, label="y", names=["1", "0"])
    assert [each["labels"] for each in digits.examples] == [0, 1]
    with pytest.raises(ValueError, match="line 2: expected a label of bad, found 1"):
        encoding.encode_texts(records(*rows), wordpiece, label="y", names=["bad"])


def test_a_tag_stands_at_the_first_token_of_its_word(wordpiece: Any):
    rows = records({"words": ["we", "unbreakable", "cat"], "tags": ["O", "B", 0]})
    examples = encoding.encode_words(rows, wordpiece, names=["O", "B"])
    assert wordpiece.convert_ids_to_tokens(examples[0]["input_ids"])[2:5] == ["un", "##break", "##able"]
    assert examples[0]["labels"] == [IGNORED, 0, 1, IGNORED, IGNORED, 0, IGNORED]
    with pytest.raises(ValueError, match="file: line 2: expected a tag for each of 1 words, found 2 tags"):
        encoding.encode_words(records({"words": ["a"], "tags": ["O", "O"]}), wordpiece, names=["O"])


def test_windows_hold_the_answer_or_point_at_the_first_token(wordpiece: Any):
    context = "the cat sat on the mat . a dog ran far away ."
    row = {"question": "who ran ?", "context": context, "answers": {"text": ["a dog"], "answer_start": [25]}}
    windows = encoding.encode_questions(records(row, row), wordpiece, max_length=14, stride=3)
    assert {window.record for window in windows.windows} == {0, 1}
    found = set()
    for example, window in zip(windows.examples, windows.windows, strict=True):
        first, last = example["start_positions"], example["end_positions"]
        assert len(window.offsets) == len(example["input_ids"]) <= 14
        whole = all(any(span == wanted for span in window.offsets) for wanted in ((25, 26), (27, 30)))
        assert (first > 0) == whole
        if first:
            found.add(context[window.offsets[first][0] : window.offsets[last][1]])
    assert found == {"a dog"}
    assert encoding.encode_questions(records({**row, "answers": None}), wordpiece)[0]["start_positions"] == 0


def test_answers_of_real_questions_are_found_again(shared_data: Path):
    tokenizer = BertTokenizer.from_pretrained(str(shared_data / "tokenizers" / "bert-base-cased"), do_lower_case=False)
    rows = read_squad(shared_data / "xquad" / "xquad.en.json")[:100]
    windows = encoding.encode_questions(rows, tokenizer, max_length=128, stride=32)
    answered = set()
    for example, (number, offsets) in zip(windows.examples, windows.windows, strict=True):
        if first := example["start_positions"]:
            text = rows.rows[number]["context"][offsets[first][0] : offsets[example["end_positions"]][1]]
            assert rows.rows[number]["answers"]["text"][0] in text
            answered.add(number)
    assert len(answered) == 100


def test_targets_are_labels(wordpiece: Any):
    examples = encoding.encode_pairs(records({"source": "cat", "target": "dog sat"}), wordpiece, prefix="not ")
    assert examples[0]["input_ids"] == wordpiece("not cat")["input_ids"]
    assert examples[0]["labels"] == wordpiece("dog sat")["input_ids"]
    assert examples.lengths == [4]


def test_words_begin_behind_gaps(shared_data: Path, wordpiece: Any):
    sentence = encoding.encode_sentences(records({"sentences": ["we ran, unbreakables"]}), wordpiece)[0][0]
    assert sentence.starts == [1, 1, 0, 1, 0, 0, 0]
    gpt2 = GPT2Tokenizer.from_pretrained(str(shared_data / "tokenizers" / "gpt2"))
    text = "Antidisestablishmentarianism is, of course"  # where a token has its blank inside it there are no gaps
    batch = gpt2([text], return_offsets_mapping=True)
    starts = encoding.word_starts(text, batch["offset_mapping"][0])
    tokens = batch.tokens(0)
    assert starts == [1] + [int(token.startswith("Ġ")) for token in tokens[1:]]


def test_the_same_data_has_the_same_fingerprint():
    rows = [{"input_ids": [1, 2], "labels": 0}, {"input_ids": [3], "labels": 1}]
    same = Examples([dict(reversed(row.items())) for row in rows])
    assert Examples(rows).fingerprint == same.fingerprint == fingerprint(rows)
    for other in (rows[::-1], rows[:1], [{**rows[0], "labels": 1}, rows[1]], [{"input_ids": [1], "x": [2]}, *rows]):
        assert Examples(other).fingerprint != same.fingerprint


def test_data_that_does_not_fit_is_refused_with_its_place():
    with pytest.raises(ValueError, match="nothing: expected at least one example"):
        Examples([], name="nothing")
    with pytest.raises(ValueError, match="examples: example 1: expected at least one token"):
        Examples([{"input_ids": [1]}, {"input_ids": []}])
    good = {"input_ids": [1, 2, 3], "labels": [0, IGNORED, 1]}
    sizes = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
    model = BertModel(BertConfig(vocab_size=4, max_position_embeddings=3, **sizes))
    require_fit(Examples([good]), nn.ModuleList([model]), classes=2)
    faults = {
        r"row 1: token id 4 is not in \[0, 4\)": {"input_ids": [4], "labels": [0]},
        r"row 1: token id -1 is not in": {"input_ids": [-1], "labels": [0]},
        r"row 1: 4 tokens, and the model has 3 positions": {"input_ids": [1] * 4, "labels": [0] * 4},
        r"row 1: label 2 is not in \[0, 2\)": {"input_ids": [1], "labels": 2},
    }
    for message, bad in faults.items():
        with pytest.raises(ValueError, match=message):
            require_fit(Examples([good, bad], ["row 0", "row 1"]), model, classes=2)
    with pytest.raises(ValueError, match="all labels are -100, there is nothing to learn"):
        require_fit(Examples([{"input_ids": [1], "labels": [IGNORED]}]), model, classes=2)
