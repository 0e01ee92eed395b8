"""Which class and which settings a folder's files give, and that the caller's win."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import AddedToken

import minitrans
from minitrans.errors import CheckpointError
from minitrans.families import FAMILIES
from minitrans.tokenizers import auto as ours
from minitrans.tokenizers import specs
from minitrans.tokenizers.auto import AutoTokenizer
from minitrans.tokenizers.tokenizer import Tokenizer


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "BertTokenizer"),
        ({"config__json": {"model_type": "bert"}}, "BertTokenizer"),
        ({"config__json": {"model_type": "electra"}}, "BertTokenizer"),
        ({"tokenizer_config__json": {"tokenizer_class": "BertTokenizerFast"}}, "BertTokenizer"),
        ({"config__json": {"tokenizer_class": "BertTokenizer", "model_type": "roberta"}}, "BertTokenizer"),
    ],
)
def test_the_class(bert_folder: Path, copy_of: Any, files: dict[str, Any], expected: str) -> None:
    assert type(AutoTokenizer.from_pretrained(copy_of(bert_folder, **files))).__name__ == expected


def test_every_family_has_its_tokenizer_and_every_spec_its_class(bert_folder: Path, copy_of: Any) -> None:
    known = ours.known_classes()
    rows = {name for name, row in vars(specs).items() if isinstance(row, specs.TokenizerSpec)}
    assert {kind.spec.name for kind in known.values()} == {getattr(specs, name).name for name in rows}
    for model_type, row in FAMILIES.items():
        kind = getattr(minitrans, row.tokenizer)
        assert kind is known[row.tokenizer] is getattr(minitrans, f"{row.tokenizer}Fast")
        named = {"ElectraTokenizer": "BertTokenizer", "LongformerTokenizer": "RobertaTokenizer",
                 "PreTrainedTokenizer": "PreTrainedTokenizerFast"}  # fmt: skip
        assert kind.spec.name == named.get(row.tokenizer, row.tokenizer)
        folder = copy_of(bert_folder, config__json={"model_type": model_type})
        assert ours.tokenizer_class(folder) is kind


def test_the_class_of_other_families(roberta_folder: Path, sentencepiece_folder: Path, copy_of: Any) -> None:
    assert type(AutoTokenizer.from_pretrained(roberta_folder)) is ours.RobertaTokenizer
    with pytest.raises(ValueError, match="name the class"):
        AutoTokenizer.from_pretrained(sentencepiece_folder)
    for model_type, kind in (("camembert", ours.CamembertTokenizer), ("xlm-roberta", ours.XLMRobertaTokenizer)):
        folder = copy_of(sentencepiece_folder, config__json={"model_type": model_type})
        assert type(AutoTokenizer.from_pretrained(folder)) is kind


def test_settings_of_the_config_and_of_the_caller(bert_folder: Path, copy_of: Any) -> None:
    config = {
        "do_lower_case": False,
        "model_max_length": 33,
        "padding_side": "left",
        "truncation_side": "left",
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "never_split": None,
    }
    folder = copy_of(bert_folder, tokenizer_config__json=config)
    found = AutoTokenizer.from_pretrained(folder)
    assert (found.do_lower_case, found.model_max_length, found.padding_side) == (False, 33, "left")
    assert (found.truncation_side, found.clean_up_tokenization_spaces) == ("left", True)
    assert list(found("A")) == ["input_ids", "attention_mask"]
    assert found.tokenize("Der") != found.tokenize("der")
    other = AutoTokenizer.from_pretrained(
        folder, do_lower_case=True, model_max_length=44, padding_side="right", use_fast=True
    )
    assert (other.do_lower_case, other.model_max_length, other.padding_side) == (True, 44, "right")
    assert other.tokenize("Der") == other.tokenize("der")
    assert other.name_or_path == str(folder)
    assert "model_max_length=44" in repr(other)


def test_options_on_a_tokenizer_json(bert_folder: Path, roberta_folder: Path, tmp_path: Path) -> None:
    """A stated option wins over the file's, an option that nobody states leaves the file alone."""
    ours.BertTokenizer.from_pretrained(bert_folder, do_lower_case=False).save_pretrained(tmp_path)
    lowered = AutoTokenizer.from_pretrained(tmp_path, do_lower_case=True)
    assert lowered.tokenize("DER") == lowered.tokenize("der")
    assert lowered.do_lower_case is True
    (tmp_path / "tokenizer_config.json").unlink()
    cased = ours.BertTokenizer.from_pretrained(tmp_path)
    assert cased.tokenize("DER") != cased.tokenize("der")
    assert cased.do_lower_case is False
    document = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    document["normalizer"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ValueError, match=r"do_lower_case=False.*no place"):
        ours.BertTokenizer.from_pretrained(tmp_path, do_lower_case=False)
    ours.RobertaTokenizer.from_pretrained(roberta_folder).save_pretrained(tmp_path / "r")
    spaced = AutoTokenizer.from_pretrained(tmp_path / "r", add_prefix_space=True)
    assert spaced("the") == ours.RobertaTokenizer.from_pretrained(roberta_folder, add_prefix_space=True)("the")


def test_the_caller_may_add_tokens_and_files_may_place_them(bert_folder: Path, copy_of: Any) -> None:
    size = len(ours.BertTokenizer.from_pretrained(bert_folder))
    mine = ours.BertTokenizer.from_pretrained(bert_folder, additional_special_tokens=["<e1>"], bos_token="<b>")
    assert mine.additional_special_tokens == mine.extra_special_tokens == ["<e1>"]
    assert sorted(mine.convert_tokens_to_ids(["<e1>", "<b>"])) == [size, size + 1]
    folder = copy_of(
        bert_folder,
        added_tokens__json={"<e2>": size + 1, "<e1>": size},
        special_tokens_map__json={
            "additional_special_tokens": ["<e1>"],
            "mask_token": {"content": "[MASK]", "lstrip": True},
        },
        config__json={"vocab_size": size + 2},
    )
    placed = AutoTokenizer.from_pretrained(folder)
    assert placed.convert_tokens_to_ids(["<e1>", "<e2>"]) == [size, size + 1]
    assert placed.all_special_tokens == ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]", "<e1>"]
    assert placed.added_tokens_decoder[placed.mask_token_id].lstrip
    assert not placed.added_tokens_decoder[size + 1].special
    assert len(AutoTokenizer.from_pretrained(folder, additional_special_tokens=["<e3>"])) == size + 3


def test_the_flags_of_a_mask_that_a_file_states(roberta_folder: Path, copy_of: Any) -> None:
    mask = {"content": "<mask>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    folder = copy_of(roberta_folder, special_tokens_map__json={"mask_token": mask})
    stated = ours.RobertaTokenizer.from_pretrained(folder)
    assert not stated.added_tokens_decoder[stated.mask_token_id].lstrip
    given = ours.RobertaTokenizer.from_pretrained(folder, mask_token=AddedToken("<mask>", lstrip=True, special=True))
    assert given.added_tokens_decoder[given.mask_token_id].lstrip


def test_constructors_take_files_and_vocabularies(bert_folder: Path, roberta_folder: Path, tmp_path: Path) -> None:
    text = "The cat's mat"
    loaded = ours.BertTokenizer.from_pretrained(bert_folder, do_lower_case=False)
    assert ours.BertTokenizer(vocab_file=bert_folder / "vocab.txt", do_lower_case=False)(text) == loaded(text)
    assert ours.BertTokenizer(str(bert_folder / "vocab.txt"), do_lower_case=False)(text) == loaded(text)
    assert ours.BertTokenizer(loaded.get_vocab(), do_lower_case=False)(text) == loaded(text)
    loaded.save_pretrained(tmp_path)
    assert ours.BertTokenizer(tokenizer_file=tmp_path / "tokenizer.json")(text) == loaded(text)
    assert Tokenizer(tokenizer_file=tmp_path / "tokenizer.json")(text).input_ids == loaded(text).input_ids
    files = (roberta_folder / "vocab.json", roberta_folder / "merges.txt")
    roberta = ours.RobertaTokenizer.from_pretrained(roberta_folder)
    assert ours.RobertaTokenizer(*files)(text) == roberta(text)
    merges = [tuple(line.split(" ")) for line in files[1].read_text(encoding="utf-8").splitlines()[1:]]
    assert ours.RobertaTokenizer(roberta.get_vocab(), merges)(text) == roberta(text)


def test_a_vocabulary_without_a_mask_has_none(bert_folder: Path, copy_of: Any) -> None:
    lines = (bert_folder / "vocab.txt").read_text(encoding="utf-8").replace("[MASK]\n", "")
    tokenizer = ours.BertTokenizer.from_pretrained(copy_of(bert_folder, vocab__txt=lines))
    assert tokenizer.mask_token is None
    assert tokenizer.mask_token_id is None
    assert "[MASK]" not in tokenizer.get_vocab()


def test_split_special_tokens(bert_folder: Path) -> None:
    tokenizer = ours.BertTokenizer.from_pretrained(bert_folder, split_special_tokens=True)
    assert tokenizer.mask_token_id not in tokenizer("[MASK]").input_ids


def test_the_sides_baked_into_a_tokenizer_json(bert_folder: Path, tmp_path: Path) -> None:
    ours.BertTokenizer.from_pretrained(bert_folder).save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    document = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    document["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    document["truncation"] = {"direction": "Left", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    for kind in (ours.BertTokenizer, Tokenizer):
        found = kind.from_pretrained(tmp_path)
        assert (found.padding_side, found.truncation_side, found.pad_token) == ("left", "left", "[PAD]")
        assert len(found("a b c d").input_ids) == 6


def test_fnet_s_ids_and_template(fnet_folder: Path, tmp_path: Path) -> None:
    """The reference, which adds nothing to a text by the sentencepiece file alone, reads the same from tokenizer.json."""
    mine = AutoTokenizer.from_pretrained(fnet_folder, tokenizer_type="fnet")
    assert (mine.pad_token_id, mine.cls_token_id, mine.sep_token_id, mine.mask_token_id) == (3, 4, 5, 6)
    mine.save_pretrained(tmp_path)
    theirs = transformers.FNetTokenizer.from_pretrained(tmp_path)
    for texts in (("A text, ``quoted''.",), ("Ein Café", "and another <unk>"), ("",)):
        found, expected = mine(*texts), theirs(*texts)
        assert dict(found) == dict(expected)
        assert list(found) == ["input_ids", "token_type_ids"]
        assert found["input_ids"][0] == 4
        assert found["input_ids"][-1] == 5
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "spiece.model").write_bytes((fnet_folder / "spiece.model").read_bytes())
    with pytest.raises(CheckpointError, match="expected the first pieces"):
        minitrans.AlbertTokenizer.from_pretrained(tmp_path / "other")
