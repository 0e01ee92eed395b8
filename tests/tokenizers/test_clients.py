"""What takes a tokenizer: data collators, `datasets` with its fingerprints, worker processes, threads."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from minitrans.tokenizers.auto import AutoTokenizer, BertTokenizer, RobertaTokenizer

KINDS = ["BertTokenizer", "RobertaTokenizer", "XLMRobertaTokenizer"]
TEXTS = ["The cat's mat", "Words that were never seen are made of smaller pieces", "x"]


def _call_in_every_way(tokenizer: Any) -> None:
    tokenizer(TEXTS, padding="max_length", truncation=True, max_length=6)
    tokenizer(TEXTS, padding=True, padding_side="left", pad_to_multiple_of=8)
    tokenizer(TEXTS[1], truncation="only_first", max_length=7, stride=2, return_overflowing_tokens=True)
    tokenizer(TEXTS, split_special_tokens=True, is_split_into_words=False)
    tokenizer.pad([tokenizer(text) for text in TEXTS])
    with pytest.raises(ValueError, match="surrogate"):
        tokenizer("\ud83d", padding="max_length", truncation=True, max_length=9)
    limit, tokenizer.model_max_length = tokenizer.model_max_length, 4
    tokenizer("a " * 50)  # which warns
    tokenizer.model_max_length = limit


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_leaves_no_trace(pairs: Any, kind: str) -> None:
    tokenizer = deepcopy(pairs[kind][0])
    before, json = pickle.dumps(tokenizer), tokenizer.backend_tokenizer.to_str()
    _call_in_every_way(tokenizer)
    assert tokenizer.backend_tokenizer.to_str() == json
    assert (tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding) == (None, None)
    assert not tokenizer.backend_tokenizer.encode_special_tokens
    assert pickle.dumps(tokenizer) == before
    assert pickle.loads(before)(TEXTS, padding=True) == tokenizer(TEXTS, padding=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_of_datasets(pairs: Any, kind: str) -> None:
    """It names the cache file of a `map`, so a call must not change it, and a setting must."""
    hashed = pytest.importorskip("datasets.fingerprint").Hasher.hash
    tokenizer = deepcopy(pairs[kind][0])
    before = hashed(tokenizer)
    _call_in_every_way(tokenizer)
    assert hashed(tokenizer) == hashed(deepcopy(tokenizer)) == before
    assert len({hashed(lambda rows: tokenizer(rows["text"])) for _ in range(2)}) == 1
    tokenizer.padding_side = "left"
    assert hashed(tokenizer) != before


def test_the_fingerprint_is_the_same_in_another_process(bert_folder: Path) -> None:
    pytest.importorskip("datasets")
    code = (
        "import sys; from datasets.fingerprint import Hasher; from minitrans import AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1]); tokenizer('a', max_length=3, padding='max_length')\n"
        "print(Hasher.hash(tokenizer))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(bert_folder)], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1


@pytest.mark.filterwarnings("default")  # datasets and forks have warnings of their own
@pytest.mark.parametrize("processes", [None, 2])
def test_datasets_map(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int | None
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    tokenizer = BertTokenizer.from_pretrained(bert_folder)
    tokenizer(TEXTS, padding=True)
    data = datasets.Dataset.from_dict({"text": TEXTS * 4})
    mapped = data.map(
        lambda rows: tokenizer(rows["text"], truncation=True, max_length=9), batched=True, num_proc=processes
    )
    assert mapped["input_ids"][: len(TEXTS)] == tokenizer(TEXTS, truncation=True, max_length=9).input_ids
    again = data.map(
        lambda rows: tokenizer(rows["text"], truncation=True, max_length=9), batched=True, num_proc=processes
    )
    assert again._fingerprint == mapped._fingerprint


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DataCollatorWithPadding", {}),
        ("DataCollatorWithPadding", {"padding": "max_length", "max_length": 30}),
        ("DataCollatorWithPadding", {"pad_to_multiple_of": 8, "return_tensors": "np"}),
        ("DataCollatorForTokenClassification", {}),
        ("DataCollatorForTokenClassification", {"pad_to_multiple_of": 8}),
        ("DataCollatorForLanguageModeling", {"mlm_probability": 0.4, "seed": 1}),
        ("DataCollatorForLanguageModeling", {"mlm": False, "pad_to_multiple_of": 4}),
        (
            "DataCollatorForLanguageModeling",
            {"mask_replace_prob": 1, "random_replace_prob": 0, "seed": 1, "whole_word_mask": True},
        ),
        ("DataCollatorForMultipleChoice", {}),
    ],
)
def test_collators_of_the_reference(pairs: Any, kind: str, name: str, options: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    batches = []
    for tokenizer in pairs[kind]:
        whole = {"return_offsets_mapping": True, "padding": "max_length", "truncation": True, "max_length": 20}
        given = whole if options.get("whole_word_mask") else {}
        rows = [dict(tokenizer(text, **given)) for text in TEXTS]
        for number, row in enumerate(rows):
            if name == "DataCollatorForTokenClassification":
                row["labels"] = [number] * len(row["input_ids"])
            if name in ("DataCollatorWithPadding", "DataCollatorForMultipleChoice"):
                row["labels"] = number
        if name == "DataCollatorForMultipleChoice":
            both = [tokenizer([text, "no"]) for text in TEXTS]
            rows = [{**each, "labels": number} for number, each in enumerate(both)]
        batches.append(getattr(transformers, name)(tokenizer, **options)(rows))
    mine, theirs = batches
    assert mine.keys() == theirs.keys()
    assert all((mine[key] == theirs[key]).all() and mine[key].dtype == theirs[key].dtype for key in mine)


def test_collators_of_texts_in_lists(pairs: Any) -> None:
    """The language-modelling collator also takes bare lists of ids, and then asks other things of the tokenizer."""
    transformers = pytest.importorskip("transformers")
    batches = [
        transformers.DataCollatorForLanguageModeling(each, mlm_probability=0.4, seed=3)(
            [each.encode(text) for text in TEXTS]
        )
        for each in pairs["BertTokenizer"]
    ]
    assert all(torch.equal(batches[0][key], batches[1][key]) for key in batches[1])


def _encode(tokenizer: Any) -> Any:
    return tokenizer(TEXTS, padding=True, truncation=True, max_length=8).input_ids


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes(bert_folder: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    tokenizer = BertTokenizer.from_pretrained(bert_folder)
    wanted = _encode(tokenizer)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_encode, [tokenizer] * 4) == [wanted] * 4


_FORKING = """
import os, signal, sys, threading
from minitrans import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
stop = False
def work():
    while not stop:
        tokenizer(["a cat " * 300] * 8, padding="max_length", truncation=True, max_length=400)
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads: thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that waits for a lock that nobody holds is killed
        same = len(tokenizer("a " * 50, padding=True, truncation=True, max_length=7).input_ids) == 7
        os._exit(0 if same and tokenizer.backend_tokenizer.padding is None else 1)
    if os.waitpid(child, 0)[1] != 0:
        print("failed"); break
else:
    print("done")
stop = True
for thread in threads: thread.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_in_the_midst_of_other_threads_calls(bert_folder: Path) -> None:
    """The lock that a call holds would stay locked in the child for ever, and the lengths of that call set."""
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORKING, str(bert_folder)], capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )  # fmt: skip
    assert found.stdout == "done\n", found.stderr


def test_threads_with_lengths_of_their_own(bert_folder: Path, roberta_folder: Path) -> None:
    """Each thread gets what it asked for, also while others decode and add tokens."""
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (bert_folder, roberta_folder)]
    assert isinstance(tokenizers[1], RobertaTokenizer)
    wrong: list[Any] = []

    def work(number: int) -> None:
        tokenizer, length, side = tokenizers[number % 2], 5 + 7 * number, ("left", "right")[number % 3 == 0]
        options = {"padding": "max_length", "padding_side": side, "truncation": True, "max_length": length}
        wanted = tokenizer(TEXTS, **options)
        for turn in range(60):
            if tokenizer(TEXTS, **options) != wanted or len(tokenizer("a " * 40).input_ids) < 40:
                wrong.append(number)
            tokenizer.decode(wanted.input_ids)
            tokenizer.add_tokens([f"new{number}of{turn}"])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
