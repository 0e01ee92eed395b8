"""Tokenizers of summaries and of T5, from sentencepiece files."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from minitrans.errors import CheckpointError, NotSupportedError
from minitrans.tokenizers import auto as ours
from minitrans.tokenizers.auto import AutoTokenizer
from tests.tokenizers.conftest import TEXT

transformers = pytest.importorskip("transformers")
FULL = {"return_offsets_mapping": True, "return_special_tokens_mask": True, "return_token_type_ids": True}


def write(folder: Path, **options: Any) -> Path:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 20), model_writer=model, vocab_size=110, model_type="unigram",
        bos_id=-1, minloglevel=2, **{"pad_id": 0, "eos_id": 1, "unk_id": 2, **options},
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())
    return folder


@pytest.fixture(scope="module", params=["nmt_nfkc", "identity"])
def pegasus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = write(tmp_path_factory.mktemp("pegasus"), normalization_rule_name=request.param)
    return ours.PegasusTokenizer.from_pretrained(folder), transformers.PegasusTokenizer.from_pretrained(folder)


def test_pegasus(pegasus: Any, odd: list[str], shared_data: Path) -> None:
    mine, theirs = pegasus
    assert mine.get_vocab() == theirs.get_vocab()
    assert mine.special_tokens_map == theirs.special_tokens_map
    assert set(mine.all_special_ids) == set(theirs.all_special_ids)
    assert mine.convert_tokens_to_ids(["<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk_2>", "<unk>"]) == [
        0,
        1,
        2,
        3,
        4,
        105,
    ]
    with gzip.open(shared_data / "multi30k" / "test_2016_flickr.de.gz", "rt", encoding="utf-8") as file:
        texts = [*file.read().splitlines()[:200], *odd, "a <mask_1> b<mask_2> c <unk_7>", "two\nlines  and spaces "]
    for given in ((texts,), (texts, texts[::-1])):
        found, expected = mine(*given, **FULL), theirs(*given, **FULL)
        for name in found:
            assert found[name] == expected[name], name
    for skip in (True, False):
        assert mine.batch_decode(found["input_ids"], skip) == theirs.batch_decode(expected["input_ids"], skip)


def test_pegasus_there_and_back(pegasus: Any, odd: list[str], tmp_path: Path) -> None:
    mine, theirs = pegasus
    mine.save_pretrained(tmp_path / "mine")
    theirs.save_pretrained(tmp_path / "theirs")
    for folder in (tmp_path / "mine", tmp_path / "theirs"):
        for kind in (AutoTokenizer, transformers.AutoTokenizer):
            again = kind.from_pretrained(folder)
            assert type(again).__name__ == "PegasusTokenizer"
            assert again(odd, odd[::-1])["input_ids"] == mine(odd, odd[::-1])["input_ids"]
            assert (again.mask_token_id, again.unk_token_id) == (3, 105)


def test_layouts_that_are_not_those_of_pegasus(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(NotSupportedError, match="offset=0.*tokenizer.json"):
        ours.PegasusTokenizer.from_pretrained(tmp_path, offset=0)
    write(tmp_path, unk_id=1, eos_id=2)
    with pytest.raises(CheckpointError, match="expected the first pieces"):
        ours.PegasusTokenizer.from_pretrained(tmp_path)


def test_t5_says_how_many_sentinels(tmp_path: Path) -> None:
    """As the published files do."""
    write(tmp_path)
    for count in (100, 7):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"extra_ids": count}))
        mine = ours.T5Tokenizer.from_pretrained(tmp_path)
        assert mine.convert_tokens_to_ids([f"<extra_id_{count - 1}>", "<extra_id_0>"]) == [110, 109 + count]
