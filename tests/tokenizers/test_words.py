"""Every word that scripts pass: what it does, or the error that says what to do instead."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend

from minitrans import hub
from minitrans.errors import NotSupportedError
from minitrans.tokenizers import auto, words
from minitrans.tokenizers.auto import AutoTokenizer, BertTokenizer, RobertaTokenizer
from minitrans.tokenizers.tokenizer import Tokenizer
from minitrans.words import Word

TEXT = "The cat's mat"
ANYTHING = object()  # a value that no table knows


@pytest.fixture
def bert(bert_folder: Path) -> BertTokenizer:
    return BertTokenizer.from_pretrained(bert_folder)


def idle(table: dict[str, Word]) -> list[tuple[str, Any]]:
    """The words that set nothing, with values that ask for nothing."""
    rows = [(name, word) for name, word in table.items() if word.ours is None]
    return [(name, value) for name, word in rows for value in (word.harmless or ("anything",))]


def refused(table: dict[str, Word]) -> list[str]:
    return [name for name, word in table.items() if word.ours is None and word.harmless is not None]


@pytest.mark.parametrize(("name", "value"), [*idle(words.SETTINGS), *idle(words.FOREIGN), *idle(words.FINDING)])
def test_words_of_loading_that_change_nothing(bert_folder: Path, bert: BertTokenizer, name: str, value: Any) -> None:
    if name in BertTokenizer.spec.options:
        return
    for kind in (BertTokenizer, AutoTokenizer):
        assert kind.from_pretrained(bert_folder, **{name: value})(TEXT) == bert(TEXT)


@pytest.mark.parametrize("name", [*refused(words.SETTINGS), *refused(words.FINDING)])
def test_words_of_loading_that_are_refused_say_what_to_do(bert_folder: Path, name: str) -> None:
    note = {**words.SETTINGS, **words.FINDING}[name].note
    for kind in (BertTokenizer, AutoTokenizer):
        with pytest.raises(NotSupportedError) as error:
            kind.from_pretrained(bert_folder, **{name: ANYTHING})
        assert f"{name}=" in str(error.value)
        assert str(error.value).endswith(note)


def test_an_option_of_another_family_changes_nothing_and_of_its_own_much(
    bert: BertTokenizer, roberta_folder: Path
) -> None:
    assert RobertaTokenizer.from_pretrained(roberta_folder, do_lower_case=True).tokenize("The") == ["The"]
    assert RobertaTokenizer.from_pretrained(roberta_folder, add_prefix_space=True).tokenize("The") == ["Ġ", "The"]
    assert not RobertaTokenizer.from_pretrained(roberta_folder).add_prefix_space
    assert bert.do_lower_case
    with pytest.raises(AttributeError, match="load the tokenizer with do_lower_case=False"):
        bert.do_lower_case = False


def test_where_the_checkpoint_is(bert_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of these go to the hub's client by their names."""
    given = {
        "revision": "v1", "local_files_only": True, "cache_dir": "c", "force_download": True, "token": "t", "subfolder": "s",
    }  # fmt: skip
    seen = []

    def local_folder(name: str, *, patterns: tuple[str, ...], **where: Any) -> Path:
        seen.append(where)
        return bert_folder

    for module in ("auto", "tokenizer"):
        monkeypatch.setattr(f"minitrans.tokenizers.{module}.local_folder", local_folder)
    assert set(given) == set(hub.HubOptions.__annotations__)
    for kind in (BertTokenizer, AutoTokenizer):
        seen.clear()
        assert kind.from_pretrained("owner/name", **given).name_or_path == "owner/name"
        assert seen[0] == given
    BertTokenizer.from_pretrained("owner/name", use_auth_token="t")
    assert seen[-1] == {"token": "t"}
    with pytest.raises(ValueError, match="give token or use_auth_token"):
        BertTokenizer.from_pretrained("owner/name", token="t", use_auth_token="t")


def test_a_subfolder(bert_folder: Path) -> None:
    assert len(BertTokenizer.from_pretrained(bert_folder.parent, subfolder=bert_folder.name)) > 200
    with pytest.raises(ValueError, match="vocab"):
        BertTokenizer.from_pretrained(bert_folder.parent)


def test_a_single_file(bert_folder: Path, bert: BertTokenizer, tmp_path: Path) -> None:
    assert BertTokenizer.from_pretrained(bert_folder / "vocab.txt")(TEXT) == bert(TEXT)
    assert BertTokenizer.from_pretrained(bert_folder / "vocab.txt", do_lower_case=False).tokenize("The") != ["the"]
    bert.save_pretrained(tmp_path)
    assert BertTokenizer.from_pretrained(tmp_path / "tokenizer.json")(TEXT) == bert(TEXT)


def test_the_class_that_a_configuration_or_a_type_names(sentencepiece_folder: Path) -> None:
    config = SimpleNamespace(model_type="camembert")
    assert type(AutoTokenizer.from_pretrained(sentencepiece_folder, config=config)) is auto.CamembertTokenizer
    assert (
        type(AutoTokenizer.from_pretrained(sentencepiece_folder, tokenizer_type="xlm-roberta"))
        is auto.XLMRobertaTokenizer
    )
    with pytest.raises(ValueError, match="tokenizer_type='gpt17': expected one of"):
        AutoTokenizer.from_pretrained(sentencepiece_folder, tokenizer_type="gpt17")


def test_other_names_of_settings(bert_folder: Path, bert: BertTokenizer, copy_of: Any) -> None:
    assert BertTokenizer.from_pretrained(bert_folder, max_len=33).model_max_length == 33
    old = copy_of(bert_folder, tokenizer_config__json={"max_len": 44})
    assert BertTokenizer.from_pretrained(old).model_max_length == 44
    assert BertTokenizer(vocab=bert.get_vocab())(TEXT) == bert(TEXT)
    with pytest.raises(ValueError, match="give vocab_file or vocab"):
        BertTokenizer(bert.get_vocab(), vocab=bert.get_vocab())
    with pytest.raises(TypeError, match="'revision' is not a setting"):
        BertTokenizer(bert.get_vocab(), revision="main")


def test_a_tokenizer_of_a_backend(bert: BertTokenizer) -> None:
    backend = Backend.from_str(bert.backend_tokenizer.to_str())
    made = Tokenizer(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", model_max_length=20)
    assert made([TEXT, "a"], padding=True).input_ids == bert([TEXT, "a"], padding=True).input_ids
    assert made.special_tokens_map == {"unk_token": "[UNK]", "pad_token": "[PAD]"}
    made.add_tokens(["more"])
    assert backend.token_to_id("more") is None


@pytest.mark.parametrize(("name", "value"), idle(words.CALLING))
def test_words_of_a_call_that_change_nothing(bert: BertTokenizer, name: str, value: Any) -> None:
    assert bert(TEXT, **{name: value}) == bert(TEXT)


@pytest.mark.parametrize("name", refused(words.CALLING))
def test_words_of_a_call_that_are_refused_say_what_to_do(bert: BertTokenizer, name: str) -> None:
    with pytest.raises(NotSupportedError) as error:
        bert(TEXT, **{name: ANYTHING})
    assert str(error.value).endswith(words.CALLING[name].note)


@pytest.mark.parametrize(("name", "value"), idle(words.SAVING))
def test_words_of_saving_that_change_nothing(bert: BertTokenizer, tmp_path: Path, name: str, value: Any) -> None:
    bert.save_pretrained(tmp_path, **{name: value})
    assert BertTokenizer.from_pretrained(tmp_path)(TEXT) == bert(TEXT)


@pytest.mark.parametrize("name", refused(words.SAVING))
def test_words_of_saving_that_are_refused_say_what_to_do(bert: BertTokenizer, tmp_path: Path, name: str) -> None:
    with pytest.raises(NotSupportedError) as error:
        bert.save_pretrained(tmp_path / "new", **{name: ANYTHING})
    assert str(error.value).endswith(words.SAVING[name].note)
    assert not (tmp_path / "new").exists()


def test_push_to_hub(bert: BertTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def upload(folder: Any, repo_id: str, **options: Any) -> None:
        told.append((repo_id, {**options, "files": sorted(options["files"])}))
        assert BertTokenizer.from_pretrained(folder)(TEXT) == bert(TEXT)

    monkeypatch.setattr("minitrans.tokenizers.tokenizer.upload", upload)
    files = ["tokenizer.json", "tokenizer_config.json"]
    bert.push_to_hub("owner/name", commit_message="New words", private=True, use_auth_token="t")
    assert told.pop() == ("owner/name", {"files": files, "commit_message": "New words", "private": True, "token": "t"})
    bert.save_pretrained(tmp_path / "mine", push_to_hub=True)
    assert told.pop() == ("mine", {"files": files, "commit_message": "Upload a tokenizer"})
    bert.save_pretrained(tmp_path / "mine", repo_id="owner/name")
    with pytest.raises(TypeError, match="unexpected argument 'tag'"):
        bert.push_to_hub("owner/name", tag="v1")
    assert told == []


@pytest.mark.parametrize("name", words.ABSENT)
def test_what_is_not_there_says_what_to_use(bert: BertTokenizer, name: str) -> None:
    assert not hasattr(bert, name)
    with pytest.raises(AttributeError) as error:
        getattr(bert, name)
    assert str(error.value).endswith(words.ABSENT[name])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("padding_side", "up", "padding_side: expected 'left' or 'right'"),
        ("truncation_side", None, "truncation_side: expected 'left' or 'right'"),
        ("model_max_length", 0, "model_max_length: expected a number of at least 1"),
        ("model_input_names", "input_ids", "model_input_names: expected a list of names"),
        ("pad_token_type_id", "1", "pad_token_type_id: expected int"),
        (
            "extra_special_tokens",
            ["<none>"],
            r"add it with add_special_tokens\(\{'extra_special_tokens': \['<none>'\]\}\)",
        ),
        ("extra_special_tokens", [None], "expected the text of a token, got NoneType"),
        ("extra_special_tokens", "[PAD]", "extra_special_tokens: expected a list of tokens"),
        ("extra_special_tokens_ids", [10**6], "expected an id of the vocabulary"),
        ("mask_token_id", -1, "expected ids"),
    ],
)
def test_wrong_settings_are_refused_where_they_are_set(
    bert: BertTokenizer, name: str, value: Any, message: str
) -> None:
    before = getattr(bert, name)
    with pytest.raises((ValueError, TypeError), match=message):
        setattr(bert, name, value)
    assert getattr(bert, name) == before


def test_settings_that_were_set_are_used_saved_and_told(bert: BertTokenizer, tmp_path: Path) -> None:
    bert.model_max_length, bert.padding_side, bert.model_input_names = 8.0, "left", ("input_ids",)
    bert.pad_token = "[MASK]"
    assert bert([TEXT, "a"], padding=True).data == {"input_ids": [bert(TEXT).input_ids, [4] * 4 + bert("a").input_ids]}
    wanted = {
        "model_max_length": 8, "padding_side": "left", "model_input_names": ["input_ids"], "pad_token": "[MASK]",
        "do_lower_case": True, "name_or_path": bert.name_or_path,
    }  # fmt: skip
    assert {name: bert.init_kwargs[name] for name in wanted} == wanted
    bert.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert {**again.init_kwargs, "name_or_path": ""} == {**bert.init_kwargs, "name_or_path": ""}


@pytest.mark.parametrize(("kind", "files"), [("bert", ["vocab.txt"]), ("roberta", ["vocab.json", "merges.txt"])])
def test_save_vocabulary(request: pytest.FixtureRequest, tmp_path: Path, kind: str, files: list[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(f"{kind}_folder"))
    assert list(type(tokenizer).vocab_files_names.values()) == [*files, "tokenizer.json"]
    assert sorted(tokenizer.save_vocabulary(tmp_path)) == sorted(str(tmp_path / file) for file in files)
    assert type(tokenizer).from_pretrained(tmp_path)(TEXT) == tokenizer(TEXT)
    assert {Path(path).name for path in tokenizer.save_vocabulary(tmp_path, "p")} == {f"p-{file}" for file in files}
    with pytest.raises(ValueError, match="expected a folder, found none"):
        tokenizer.save_vocabulary(tmp_path / "none")


def test_save_vocabulary_of_a_sentencepiece_file(sentencepiece_folder: Path, tmp_path: Path) -> None:
    tokenizer = auto.XLMRobertaTokenizer.from_pretrained(sentencepiece_folder)
    with pytest.raises(ValueError, match=r"save_pretrained writes tokenizer\.json"):
        tokenizer.save_vocabulary(tmp_path)


def test_what_a_file_says_of_these_words_is_passed_over(bert_folder: Path, bert: BertTokenizer, copy_of: Any) -> None:
    """As published tokenizer_config.json files have them."""
    config = {
        "never_split": ["a"],
        "add_bos_token": True,
        "chat_template": "x",
        "auto_map": {},
        "sp_model_kwargs": {"a": 1},
    }
    folder = copy_of(bert_folder, tokenizer_config__json=json.dumps(config))
    assert BertTokenizer.from_pretrained(folder)(TEXT) == bert(TEXT)


def test_a_token_that_a_family_lacks_is_not_added(bert_folder: Path, bert: BertTokenizer, roberta_folder: Path) -> None:
    for end in words.ENDS:
        assert BertTokenizer.from_pretrained(bert_folder, **{f"add_{end}": False})(TEXT) == bert(TEXT)
        with pytest.raises(NotSupportedError, match="template"):
            RobertaTokenizer.from_pretrained(roberta_folder, **{f"add_{end}": False})


def test_trust_in_code_that_is_not_there_asks_for_nothing(bert_folder: Path, bert: BertTokenizer) -> None:
    for kind in (BertTokenizer, AutoTokenizer):
        assert kind.from_pretrained(bert_folder, trust_remote_code=True)(TEXT) == bert(TEXT)
