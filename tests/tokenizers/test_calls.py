"""Wrong calls are errors that say what was given and what was expected; right ones leave their arguments alone."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minitrans.tokenizers.auto import AutoTokenizer, BertTokenizer, BertTokenizerFast, RobertaTokenizer
from minitrans.tokenizers.batch_encoding import BatchEncoding


@pytest.fixture
def bert(bert_folder: Path) -> BertTokenizer:
    return BertTokenizer.from_pretrained(bert_folder)


WRONG: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    (lambda t: t(None), TypeError, "text: expected a text"),
    (lambda t: t(7), TypeError, "got int 7"),
    (lambda t: t(b"bytes"), TypeError, "got bytes"),
    (lambda t: t(["a", None]), TypeError, r"text\[1\]: expected a text"),
    (lambda t: t(["a", 3.5]), TypeError, r"text\[1\].*float"),
    (lambda t: t([["a", "b", "c"]]), TypeError, "is_split_into_words=True"),
    (lambda t: t([[["a"]]]), TypeError, "expected a text or a pair"),
    (lambda t: t([("a", 1)]), TypeError, r"text\[0\]\[1\]"),
    (lambda t: t([]), ValueError, "at least one text"),
    (lambda t: t("a", 5), TypeError, "text_pair: expected a text"),
    (lambda t: t(["a"], "b"), TypeError, "text_pair: expected a list"),
    (lambda t: t(["a", "b"], ["c"]), ValueError, "expected 2 of them, as text, got 1"),
    (lambda t: t("a b", is_split_into_words=True), TypeError, "expected a list of words"),
    (lambda t: t([["a", 1]], is_split_into_words=True), TypeError, "expected words, got int 1"),
    (lambda t: t("half \ud83d of a pair"), ValueError, "character 5 is half of a surrogate"),
    (lambda t: t("a", padding="max"), ValueError, "padding='max': expected True, False or one of longest"),
    (lambda t: t("a", padding=1.5), TypeError, "padding"),
    (lambda t: t("a", truncation="middle"), ValueError, "truncation='middle'.*only_second"),
    (lambda t: t("a", truncation=True, max_length=1), ValueError, "max_length=1: too small, 2 special"),
    (lambda t: t("a", "b", truncation=True, max_length=2), ValueError, "max_length=2: too small, 3 special"),
    (lambda t: t("a", truncation=True, max_length=0), ValueError, "max_length=0: too small"),
    (lambda t: t("a", truncation=True, max_length=-3), ValueError, "max_length=-3: expected at least 0"),
    (lambda t: t("a", truncation=True, max_length="8"), TypeError, "max_length: expected an integer, got str"),
    (lambda t: t("a", truncation=True, max_length=8.0), TypeError, "max_length: expected an integer"),
    (lambda t: t("a", truncation=True, max_length=True), TypeError, "max_length: expected an integer"),
    (lambda t: t("a", truncation=True, max_length=8, stride=6), ValueError, "stride=6: expected less than 6"),
    (lambda t: t("a", stride=-1), ValueError, "stride=-1"),
    (lambda t: t("a " * 9, "b", truncation="only_second", max_length=6), ValueError, "cannot reach max_length=6"),
    (lambda t: t("a", padding=True, pad_to_multiple_of=0), ValueError, "pad_to_multiple_of=0"),
    (
        lambda t: t("a", padding=True, truncation=True, max_length=10, pad_to_multiple_of=8),
        ValueError,
        "not a multiple of pad_to_multiple_of=8",
    ),
    (lambda t: t("a", padding_side="middle"), ValueError, "padding_side='middle'"),
    (lambda t: t("a", return_tensors="tf"), ValueError, "expected one of 'pt'"),
    (lambda t: t(["a", "a b c d"], return_tensors="pt"), ValueError, "pass padding=True"),
    (lambda t: t(["a", "a b c d"], return_tensors="np"), ValueError, "pass padding=True"),
    (lambda t: t("a", max_lenght=5), TypeError, "unexpected argument 'max_lenght'"),
    (lambda t: t.encode_plus(["a", "b"]), TypeError, "batch_encode_plus"),
    (lambda t: t.batch_encode_plus("a"), TypeError, "expected a list, got str"),
    (lambda t: t.decode([-100]), ValueError, "-100"),
    (lambda t: t.decode([1.5]), TypeError, "float 1.5"),
    (lambda t: t.decode("12"), TypeError, "str '12'"),
    (lambda t: t.convert_tokens_to_ids(5), TypeError, "expected a token or a list"),
    (lambda t: t.convert_ids_to_tokens([None]), TypeError, "NoneType"),
    (lambda t: t.pad([]), ValueError, "empty list"),
    (lambda t: t.pad("a"), TypeError, "got str"),
    (lambda t: t.pad([{"ids": [1]}]), ValueError, "expected the field 'input_ids'"),
    (lambda t: t.pad([{"input_ids": [1]}, {"input_ids": [1], "labels": 1}]), ValueError, "encoding 1 has the fields"),
    (lambda t: t.pad({"input_ids": [[1], [2]], "labels": [1]}), ValueError, "expected 2 rows in 'labels'"),
    (lambda t: t.add_tokens(5), TypeError, "got int 5"),
    (lambda t: t.add_tokens([""]), ValueError, "empty token"),
    (lambda t: t.add_special_tokens({"end_token": "x"}), ValueError, "'end_token'.*pad_token"),
    (lambda t: t.add_special_tokens({"pad_token": 5}), ValueError, "got int 5"),
    (lambda t: t.add_special_tokens({"extra_special_tokens": "<e>"}), ValueError, "expected a list of tokens"),
    (lambda t: setattr(t, "pad_token", "[NEW]"), ValueError, "not in the vocabulary; add it with add_special_tokens"),
    (lambda t: setattr(t, "pad_token_id", 10**6), ValueError, "expected an id of the vocabulary"),
    (lambda t: setattr(t, "pad_token", 3), ValueError, "got int 3"),
    (lambda t: t.get_special_tokens_mask([1], [2], already_has_special_tokens=True), ValueError, "no token_ids_1"),
    (lambda t: t("a").to(torch.float16), TypeError, "expected a device"),
    (lambda t: t("a").nothing, AttributeError, "no field 'nothing'"),
    (lambda t: t.pad(t(["a"])).tokens(), ValueError, "not made by a tokenizer's call"),
    (lambda t: AutoTokenizer(), TypeError, "from_pretrained"),
    (lambda t: BertTokenizer(), TypeError, "vocab.txt"),
    (lambda t: RobertaTokenizer("vocab.json"), TypeError, "vocab.json and merges.txt"),
    (lambda t: BertTokenizer(t.vocab, do_lowercase=False), TypeError, "'do_lowercase' is not a setting"),
    (lambda t: BertTokenizer(t.vocab, do_lower_case=1), ValueError, "do_lower_case: expected bool"),
    (lambda t: BertTokenizer(t.vocab, padding_side="up"), ValueError, "expected 'left' or 'right'"),
    (lambda t: AutoTokenizer.from_pretrained("/no/such/folder"), ValueError, "no such folder"),
]


@pytest.mark.parametrize(("call", "kind", "message"), WRONG, ids=[case[2][:40] for case in WRONG])
def test_wrong_calls(bert: BertTokenizer, call: Callable[[Any], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call(bert)


def test_padding_without_a_pad_token(bert: BertTokenizer) -> None:
    bert.pad_token = None
    assert bert.pad_token_id is None
    for call in (lambda: bert(["a", "b c"], padding=True), lambda: bert.pad([bert("a")])):
        with pytest.raises(ValueError, match="no pad token"):
            call()
    bert.pad_token = bert.sep_token
    assert bert(["a", "a b c"], padding=True).input_ids[0][-2:] == [bert.sep_token_id] * 2
    bert.pad_token_id = 0
    assert bert.pad_token == "[PAD]"


def test_arguments_that_can_have_no_effect_warn(bert: BertTokenizer) -> None:
    with pytest.warns(UserWarning, match="padding='max_length'"):
        bert("a", padding=True, max_length=9)


def test_no_limit_to_pad_or_cut_to_is_said_once(bert: BertTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    """The reference pads and cuts nothing then, and scripts rely on it."""
    with caplog.at_level(logging.WARNING):
        assert len(bert("a " * 50, truncation=True, verbose=False).input_ids) == 52
        assert caplog.records == []
        for _ in range(2):
            assert len(bert("a " * 50, truncation=True).input_ids) == 52
            assert len(bert("a", padding="max_length", truncation=True).input_ids) == 3
            assert len(bert.pad([bert("a")], padding="max_length").input_ids[0]) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "the tokenizer has no model_max_length and max_length was not given: truncation has no effect"
    ]


def test_a_text_too_long_for_the_model_is_logged_once(bert: BertTokenizer, caplog: pytest.LogCaptureFixture) -> None:
    bert.model_max_length = 8
    with caplog.at_level(logging.WARNING):
        bert("a " * 20)
        bert("a " * 20)
    assert [record.getMessage() for record in caplog.records] == [
        "a sequence has 22 tokens, the model takes at most 8; pass truncation=True"
    ]
    with caplog.at_level(logging.WARNING):
        bert.deprecation_warnings = {}
        bert("a " * 20, verbose=False)
        bert("a " * 20, max_length=40, padding="max_length", truncation=False)  # the caller has said how long
        assert len(caplog.records) == 1
        bert(["a", "a " * 20], padding=True)
        assert len(caplog.records) == 2
    bert.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True  # as scripts silence it
    bert("a " * 20)
    assert len(caplog.records) == 2
    assert len(bert("a " * 20, truncation=True).input_ids) == 8
    assert len(bert("a", padding="max_length").input_ids) == 8


def test_pad_to_max_length(bert: BertTokenizer) -> None:
    assert len(bert("a b c", max_length=8, pad_to_max_length=True).input_ids) == 8
    assert len(bert("a " * 20, max_length=8, pad_to_max_length=True).input_ids) == 8
    rows = bert(["a b c", "a"], pad_to_max_length=True).input_ids
    assert [len(row) for row in rows] == [5, 5]


def test_a_call_leaves_its_arguments_and_the_tokenizer_alone(bert: BertTokenizer) -> None:
    texts, words = ["a b", "c"], [["a", "b"], ["c"]]
    kept = copy.deepcopy((texts, words))
    before = bert("a " * 30)
    bert(texts, texts, padding="max_length", truncation=True, max_length=7)
    bert(words, is_split_into_words=True, padding=True)
    assert (texts, words) == kept
    assert bert("a " * 30) == before
    vocabulary = bert.get_vocab()
    made = BertTokenizer(vocabulary, model_max_length=10)
    made.add_tokens(["more"])
    assert "more" not in vocabulary


def test_the_shortcuts_equal_a_call(bert: BertTokenizer) -> None:
    assert bert.encode("a b", "c") == bert("a b", "c").input_ids
    assert bert.encode_plus("a b", max_length=4, padding="max_length") == bert(
        "a b", max_length=4, padding="max_length"
    )
    assert bert.batch_encode_plus([("a", "b"), ("c", "d")]) == bert(["a", "c"], ["b", "d"])
    assert bert.encode("a b", return_tensors="pt").shape == (1, 4)
    assert bert.encode_plus(["a", "b"], is_split_into_words=True).tokens() == ["[CLS]", "a", "b", "[SEP]"]
    assert bert.vocab == bert.get_vocab()
    assert bert.max_len_single_sentence == bert.model_max_length - 2
    assert bert.max_len_sentences_pair == bert.model_max_length - 3
    assert bert.added_tokens_encoder == bert.get_added_vocab()
    assert BertTokenizerFast is BertTokenizer


def test_decoding_takes_tensors_and_arrays(bert: BertTokenizer) -> None:
    batch = bert(["a cat", "b"], padding=True, return_tensors="pt")
    assert bert.decode(batch.input_ids[0], skip_special_tokens=True) == "a cat"
    assert bert.batch_decode(batch.input_ids, skip_special_tokens=True) == ["a cat", "b"]
    assert bert.batch_decode(np.asarray(batch.input_ids), skip_special_tokens=True) == ["a cat", "b"]
    assert bert.decode(bert.cls_token_id) == "[CLS]"
    assert bert.decode([]) == ""
    assert bert.convert_ids_to_tokens(batch.input_ids[1], skip_special_tokens=True) == ["b"]
    assert bert.convert_ids_to_tokens(bert.cls_token_id) == "[CLS]"
    assert bert.convert_tokens_to_ids(["a", "nowhere"]) == [bert.vocab["a"], bert.unk_token_id]
    assert bert.convert_tokens_to_string(["a", "##b", "c"]) == "ab c"
    text = "it is n't . what ? no , i 'm"
    assert bert.clean_up_tokenization(text) == "it isn't. what? no, i'm"


def test_a_batch_is_a_dictionary_with_attributes(bert: BertTokenizer) -> None:
    import pickle

    batch = bert(["a cat", "b"], padding=True, return_tensors="pt")
    assert {**batch}.keys() == batch.keys() == {"input_ids", "token_type_ids", "attention_mask"}
    assert batch.input_ids is batch["input_ids"]
    assert batch.to("cpu") is batch
    assert batch.to(torch.device("meta")).input_ids.device.type == "meta"
    assert batch.is_fast
    assert batch.n_sequences == 1
    assert batch[0].tokens == batch.tokens(0)
    again = pickle.loads(pickle.dumps(bert(["a cat"])))
    assert again.tokens(0) == bert(["a cat"]).tokens(0)
    assert copy.deepcopy(again) == again
    rows = BatchEncoding({"input_ids": [[1], [2]]})
    assert rows[1:] == {"input_ids": [[2]]}
    assert not rows.is_fast


def test_threads_do_not_mix_their_options(bert: BertTokenizer) -> None:
    wrong: list[int] = []

    def work(length: int) -> None:
        for _ in range(200):
            found = len(bert("a " * 40, truncation=True, max_length=length, padding="max_length").input_ids)
            if found != length:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(length,)) for length in (5, 17, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
