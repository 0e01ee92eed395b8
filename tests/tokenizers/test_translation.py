"""Tokenizers of translation models: the languages stand where the reference puts them, on both sides."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

import minitrans
from minitrans.errors import CheckpointError, NotSupportedError
from minitrans.tokenizers import auto as ours
from minitrans.tokenizers import languages
from minitrans.tokenizers.auto import AutoTokenizer
from tests.tokenizers.conftest import TEXT

transformers = pytest.importorskip("transformers")
KINDS = {
    "MBartTokenizer": ("unigram", ("de_DE", "fr_XX")),
    "MBart50Tokenizer": ("unigram", ("de_DE", "sl_SI")),
    "NllbTokenizer": ("bpe", ("deu_Latn", "fra_Latn")),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def made(kind: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """The folder of a small sentencepiece model, our tokenizer of it, the reference's."""
    folder, model = tmp_path_factory.mktemp(kind), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 20), model_writer=model, vocab_size=110, model_type=KINDS[kind][0],
        minloglevel=2,
    )  # fmt: skip
    (folder / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    mine = getattr(ours, kind).from_pretrained(folder)
    codes = {"extra_special_tokens": list(languages.NLLB)} if kind == "NllbTokenizer" else {}
    return folder, mine, getattr(transformers, kind).from_pretrained(folder, **codes)


def ids_of(kind: str, mine: Any, theirs: Any, rows: list[list[int]]) -> list[list[int]]:
    """The reference's ids; of a bare NLLB file it puts the mask before the languages, unlike published checkpoints."""
    if kind != "NllbTokenizer":
        return rows
    return [mine.convert_tokens_to_ids(theirs.convert_ids_to_tokens(row)) for row in rows]


def test_ids_and_texts(kind: str, made: Any, odd: list[str]) -> None:
    _, mine, theirs = made
    assert len(mine) == len(theirs)
    texts = [*TEXT.splitlines(), *odd, f"a {KINDS[kind][1][0]} b  c", "two  spaces ", " in front"]
    for given in ((texts,), (texts, texts[::-1])):
        for special in (True, False):
            found, expected = mine(*given, add_special_tokens=special), theirs(*given, add_special_tokens=special)
            assert found["input_ids"] == ids_of(kind, mine, theirs, expected["input_ids"])
            assert found["attention_mask"] == expected["attention_mask"]
    for skip in (True, False):
        assert mine.batch_decode(found["input_ids"], skip) == theirs.batch_decode(expected["input_ids"], skip)
    assert mine.special_tokens_map == theirs.special_tokens_map


def test_ids_of_published_checkpoints(kind: str, made: Any) -> None:
    """Four tokens, the pieces, the languages, the mask."""
    _, mine, _ = made
    codes = list(mine.lang_code_to_id)
    assert len(codes) == {"MBartTokenizer": 25, "MBart50Tokenizer": 52, "NllbTokenizer": 202}[kind]
    assert list(mine.lang_code_to_id.values()) == list(range(111, 111 + len(codes)))
    assert mine.mask_token_id == 111 + len(codes) == len(mine) - 1
    assert mine.vocab_size == len(mine)


def test_languages_of_both_sides(kind: str, made: Any) -> None:
    _, mine, theirs = made
    source, target = KINDS[kind][1]
    before = mine.src_lang
    for tokenizer in (mine, theirs):
        tokenizer.src_lang, tokenizer.tgt_lang = source, target
    for given in (
        {"text": "a cat", "text_target": "ein Wort"},
        {"text": ["a", "the mats"], "text_target": ["x", "des mots"], "padding": True, "return_tensors": "np"},
        {"text_target": "les mots"},
        {"text": "a cat", "text_pair": "b"},
    ):
        found, expected = mine(**given), theirs(**given)
        assert list(found) == list(expected)
        for name in ("input_ids", "labels"):
            if name in found:
                rows = found[name] if isinstance(found[name], list) else found[name].tolist()
                wanted = expected[name] if isinstance(expected[name], list) else expected[name].tolist()
                rows, wanted = ([each] if isinstance(each[0], int) else each for each in (rows, wanted))
                assert rows == ids_of(kind, mine, theirs, wanted), name
    ends = mine("a")["input_ids"][-1], mine("a")["input_ids"][0]
    assert mine.lang_code_to_id[source] in ends
    assert mine.lang_code_to_id[target] not in ends
    for tokenizer in (mine, theirs):
        tokenizer.src_lang, tokenizer.tgt_lang = before, None
    assert mine(text_target="a")["input_ids"] == mine("a")["input_ids"]


def test_languages_outlive_a_new_vocabulary(kind: str, made: Any) -> None:
    folder, mine, _ = made
    source, target = KINDS[kind][1]
    mine = type(mine).from_pretrained(folder, src_lang=source, tgt_lang=target)
    mine.add_tokens(["cat"])  # no language
    with pytest.raises(ValueError, match="src_lang='cat': the nearest of the"):
        mine.src_lang = "cat"
    again = mine.train_new_from_iterator(TEXT.splitlines(), 400)
    assert (again.src_lang, again.tgt_lang) == (source, target)
    assert again.lang_code_to_id[source] in again("a")["input_ids"]


def test_an_unknown_language(kind: str, made: Any) -> None:
    folder, mine, _ = made
    source = KINDS[kind][1][0]
    count = len(mine.lang_code_to_id)
    for name in ("src_lang", "tgt_lang"):
        message = f"{name}='{source}x': the nearest of the {count} languages is '{source}'"
        with pytest.raises(ValueError, match=message):
            setattr(mine, name, source + "x")
        with pytest.raises(ValueError, match=message):
            type(mine).from_pretrained(folder, **{name: source + "x"})
    assert (mine.src_lang, mine.tgt_lang) == (mine.spec.options["src_lang"], None)
    with pytest.raises(ValueError, match="tokenizer.src_lang"):
        mine("a", src_lang=source)


def test_there_and_back(kind: str, made: Any, tmp_path: Path, odd: list[str]) -> None:
    """The languages are saved; the reference reads the same ids from our files, we from the reference's."""
    folder, _, theirs = made
    source, target = KINDS[kind][1]
    mine = type(made[1]).from_pretrained(folder, src_lang=source, tgt_lang=target)
    mine.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == kind
    texts = [*TEXT.splitlines(), *odd]
    for again in (AutoTokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)):
        assert type(again).__name__ == kind
        assert (again.src_lang, again.tgt_lang) == (source, target)
        assert again(texts, text_target=texts)["input_ids"] == mine(texts)["input_ids"]
        assert again(texts, text_target=texts)["labels"] == mine(text_target=texts)["input_ids"]
    theirs.save_pretrained(tmp_path / "theirs")
    again = AutoTokenizer.from_pretrained(tmp_path / "theirs", src_lang=source)
    theirs.src_lang = source
    assert again(texts)["input_ids"] == theirs(texts)["input_ids"]
    theirs.src_lang = mine.spec.options["src_lang"]


def test_real_text_of_four_languages(kind: str, made: Any, shared_data: Path) -> None:
    _, mine, theirs = made
    for language in ("en", "de", "fr", "cs"):
        with gzip.open(shared_data / "multi30k" / f"test_2016_flickr.{language}.gz", "rt", encoding="utf-8") as file:
            texts = file.read().splitlines()[:300]
        found, expected = mine(texts)["input_ids"], theirs(texts)["input_ids"]
        assert found == ids_of(kind, mine, theirs, expected)
        assert mine.batch_decode(found, True) == theirs.batch_decode(expected, True)


def test_older_nllb_puts_the_language_last(tmp_path: Path, kind: str, made: Any) -> None:
    if kind != "NllbTokenizer":
        pytest.skip("an option of NLLB")
    mine = ours.NllbTokenizer.from_pretrained(made[0], legacy_behaviour=True, src_lang="fra_Latn")
    assert mine("a")["input_ids"][-2:] == [mine.eos_token_id, mine.lang_code_to_id["fra_Latn"]]
    mine.save_pretrained(tmp_path)
    for again in (AutoTokenizer.from_pretrained(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)):
        assert again("a b", "c")["input_ids"] == mine("a b", "c")["input_ids"]


def test_m2m100_from_a_tokenizer_json(tmp_path: Path, made: Any, kind: str) -> None:
    """Its languages are codes within marks; the template is the reference's, whose class reads no tokenizer.json."""
    if kind != "NllbTokenizer":
        pytest.skip("one model is enough")
    backend = Backend.from_str(made[1].backend_tokenizer.to_str())
    backend.add_special_tokens([AddedToken(f"__{code}__", special=True) for code in ("de", "en", "ast")])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "m2m_100", "vocab_size": 999}))
    mine = AutoTokenizer.from_pretrained(tmp_path, src_lang="ast")
    assert type(mine) is ours.M2M100Tokenizer
    mine.tgt_lang = "de"
    piece = made[1]("a", add_special_tokens=False)["input_ids"]
    found = mine("a", text_target="a")
    assert mine.convert_ids_to_tokens([found["input_ids"][0], found["labels"][0]]) == ["__ast__", "__de__"]
    assert found["input_ids"][1:] == found["labels"][1:] == [*piece, 2]
    with pytest.raises(ValueError, match="nearest of the .* languages is 'de'"):
        mine.src_lang = "dee"
    mine.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again("a", text_target="a") == found


def test_marian_is_refused_with_what_to_do(tmp_path: Path, made: Any) -> None:
    for name in ("vocab.json", "source.spm", "target.spm"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "marian"}))
    with pytest.raises(NotSupportedError, match="make the ids with transformers.MarianTokenizer"):
        AutoTokenizer.from_pretrained(tmp_path)
    mine = ours.MarianTokenizer(tokenizer_object=made[1].backend_tokenizer)
    assert mine("a")["input_ids"] == made[1]("a")["input_ids"]
    with pytest.raises(NotSupportedError, match="make the labels with"):
        mine("a", text_target="b")


@pytest.fixture(scope="module", params=["nmt_nfkc", "identity"])
def m2m100(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as published: pieces in another order than the sentencepiece file's, languages named as special tokens."""
    folder, model = tmp_path_factory.mktemp("m2m100"), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 20), model_writer=model, vocab_size=110, model_type="bpe", minloglevel=2,
        normalization_rule_name=request.param,
    )  # fmt: skip
    (folder / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    judge = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [judge.IdToPiece(index) for index in range(3, judge.GetPieceSize())]
    words = ["<s>", "<pad>", "</s>", "<unk>", *reversed(pieces), "abc▁rare"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    config = {"tokenizer_class": "M2M100Tokenizer", "additional_special_tokens": list(languages.M2M100)}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_m2m100_from_its_files(m2m100: Path, odd: list[str], shared_data: Path, tmp_path: Path) -> None:
    mine = AutoTokenizer.from_pretrained(m2m100, src_lang="de", tgt_lang="ast")
    theirs = transformers.M2M100Tokenizer.from_pretrained(m2m100, src_lang="de", tgt_lang="ast")
    assert mine.lang_code_to_id == theirs.lang_code_to_id
    assert mine.special_tokens_map == theirs.special_tokens_map
    with gzip.open(shared_data / "multi30k" / "test_2016_flickr.de.gz", "rt", encoding="utf-8") as file:
        texts = [*file.read().splitlines()[:100], *odd, " a </s> b", "x __fr__ y"]
    found, expected = mine(texts, text_target=texts), theirs(texts, text_target=texts)
    for name in ("input_ids", "labels", "attention_mask"):
        for text, row, wanted in zip(texts, found[name], expected[name], strict=True):
            assert row == wanted, (name, text)
    assert mine(texts[:9], texts[1:10])["input_ids"] == theirs(texts[:9], texts[1:10])["input_ids"]
    for skip in (True, False):
        for row in found["input_ids"]:
            assert mine.decode(row, skip) == theirs.decode(row, skip)
    mine.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(texts, text_target=texts) == found
    assert again.batch_decode(found["labels"]) == mine.batch_decode(found["labels"])
    with pytest.raises(ValueError, match="src_lang='den': the nearest of the 100 languages is '"):
        mine.src_lang = "den"


def test_a_translation_begins_with_its_language(m2m100: Path) -> None:
    tokenizer = ours.M2M100Tokenizer.from_pretrained(m2m100)
    config = minitrans.M2M100Config(
        vocab_size=len(tokenizer), d_model=12, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32,
    )  # fmt: skip
    pipe = minitrans.pipeline(
        "translation", minitrans.M2M100ForConditionalGeneration(config), tokenizer, max_new_tokens=3
    )
    (written,) = pipe("a cat", src_lang="en", tgt_lang="de", return_tensors=True)
    assert tokenizer.lang_code_to_id["de"] in list(written["translation_token_ids"])[:2]


def test_the_languages_of_another_model(m2m100: Path) -> None:
    with pytest.raises(NotSupportedError, match="language_codes='wmt21'.*transformers.M2M100Tokenizer"):
        ours.M2M100Tokenizer.from_pretrained(m2m100, language_codes="wmt21")


@pytest.mark.parametrize(("word", "message"), [("▁", "found none for '▁'"), ("語彙", "'語彙': expected characters")])
def test_a_lookup_that_a_backend_cannot_make(word: str, message: str, m2m100: Path, tmp_path: Path) -> None:
    words = json.loads((m2m100 / "vocab.json").read_text())
    index = words.pop(word, None) or len(words)
    words[f"{word}{word}" if word == "▁" else word] = index
    (tmp_path / "vocab.json").write_text(json.dumps(words))
    (tmp_path / "sentencepiece.bpe.model").write_bytes((m2m100 / "sentencepiece.bpe.model").read_bytes())
    with pytest.raises(CheckpointError, match=message):
        ours.M2M100Tokenizer.from_pretrained(tmp_path)
