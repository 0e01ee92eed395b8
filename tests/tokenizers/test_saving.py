"""What we save, the reference opens with the same ids, and the other way round."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from minitrans.tokenizers import auto as ours
from minitrans.tokenizers.auto import AutoTokenizer

transformers = pytest.importorskip("transformers")
KINDS = [
    "BertTokenizer do_lower_case",
    "BertTokenizer",
    "RobertaTokenizer",
    "RobertaTokenizer add_prefix_space trim_offsets",
    "XLMRobertaTokenizer",
    "CamembertTokenizer",
]
FULL = {"return_offsets_mapping": True, "return_special_tokens_mask": True}


def _same(one: Any, other: Any, texts: list[str]) -> None:
    assert dict(one(texts, texts[::-1], **FULL)) == dict(other(texts, texts[::-1], **FULL))
    assert one.special_tokens_map == other.special_tokens_map
    assert one.model_max_length == other.model_max_length
    assert one.padding_side == other.padding_side
    assert repr(one.added_tokens_decoder) == repr(other.added_tokens_decoder)


@pytest.mark.parametrize("kind", KINDS)
def test_round_trips(pairs: Any, odd: list[str], tmp_path: Path, kind: str) -> None:
    mine, theirs = pairs[kind]
    mine, theirs = copy.deepcopy(mine), copy.deepcopy(theirs)
    for tokenizer in (mine, theirs):
        tokenizer.add_special_tokens({"extra_special_tokens": ["<e1>"]})
        tokenizer.add_tokens(["new word"])
        tokenizer.model_max_length = 77
    odd = [*odd, "a new word <e1>"]
    assert {Path(path).name for path in mine.save_pretrained(tmp_path / "a" / "b")} == {
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for again in (
        AutoTokenizer.from_pretrained(tmp_path / "a" / "b"),
        transformers.AutoTokenizer.from_pretrained(tmp_path / "a" / "b"),
    ):
        assert type(again).__name__ == type(mine).__name__
        _same(mine, again, odd)
    theirs.save_pretrained(tmp_path / "c")
    _same(theirs, AutoTokenizer.from_pretrained(tmp_path / "c"), odd)
    _same(mine, pickle.loads(pickle.dumps(mine)), odd)
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_a_pipeline_of_its_own_is_not_saved_as_the_family(pairs: Any, tmp_path: Path, odd: list[str]) -> None:
    """The reference's BertTokenizer would rebuild another pipeline, and give other ids."""
    from tokenizers import normalizers

    mine = copy.deepcopy(pairs["BertTokenizer"][0])
    mine.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    mine.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    for again in (AutoTokenizer, transformers.AutoTokenizer):
        _same(mine, again.from_pretrained(tmp_path), odd)
    _same(mine, ours.BertTokenizer.from_pretrained(tmp_path), odd)


def test_stale_companions_do_not_come_back(pairs: Any, tmp_path: Path, odd: list[str]) -> None:
    mine, _ = pairs["BertTokenizer"]
    (tmp_path / "special_tokens_map.json").write_text('{"mask_token": "[OLD]", "additional_special_tokens": ["[X]"]}')
    (tmp_path / "added_tokens.json").write_text('{"[OLD]": 1}')
    (tmp_path / "vocab.txt").write_text("old\n")
    mine.save_pretrained(tmp_path)
    for again in (AutoTokenizer, transformers.AutoTokenizer):
        _same(mine, again.from_pretrained(tmp_path), odd)


def test_the_truncation_of_the_last_call_is_not_saved(pairs: Any, tmp_path: Path) -> None:
    mine = copy.deepcopy(pairs["BertTokenizer"][0])
    mine("a b c d", truncation=True, max_length=3, padding="max_length")
    mine.save_pretrained(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    assert document["truncation"] is None
    assert document["padding"] is None


def test_a_file_in_the_place_of_the_folder(pairs: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="expected a folder, found a file"):
        pairs["BertTokenizer"][0].save_pretrained(tmp_path / "file")
