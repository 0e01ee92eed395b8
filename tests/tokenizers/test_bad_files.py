"""A broken or inconsistent vocabulary is one clear error that names the file and the line, key or token."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minitrans.errors import CheckpointError
from minitrans.tokenizers.auto import (
    AutoTokenizer,
    BertTokenizer,
    CamembertTokenizer,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)
from minitrans.tokenizers.tokenizer import Tokenizer


def _fails(action: Callable[[], Any], *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


LINES: list[tuple[str, Callable[[list[str]], Any], tuple[str, ...]]] = [
    ("no [UNK]", lambda v: "\n".join(t for t in v if t != "[UNK]"), ("vocab.txt", "[UNK]")),
    ("no [CLS]", lambda v: "\n".join(t for t in v if t != "[CLS]"), ("vocab.txt", "cls_token", "[CLS]")),
    ("no [PAD]", lambda v: "\n".join(t for t in v if t != "[PAD]"), ("vocab.txt", "pad_token", "[PAD]")),
    ("blank line", lambda v: "\n".join([*v[:9], "", *v[9:]]), ("vocab.txt", "line 10", "blank")),
    ("space line", lambda v: "\n".join([*v[:9], " \t", *v[9:]]), ("vocab.txt", "line 10", "blank")),
    ("blank lines at the end", lambda v: "\n".join(v) + "\n\n\n", ("vocab.txt", "blank")),
    ("twice", lambda v: "\n".join([*v, v[7]]), ("vocab.txt", "line 8 already")),
    ("empty", lambda v: "", ("vocab.txt", "empty")),
    ("not UTF-8", lambda v: b"[UNK]\n\xff\xfe\n", ("vocab.txt", "UTF-8", "byte 6")),
    ("short", lambda v: "\n".join(v[:3]), ("vocab.txt", "[SEP]")),
    ("terminal codes", lambda v: "\n".join([*v, "\x1b[2J", "\x1b[2J"]), ("vocab.txt", "x1b")),
]


@pytest.mark.parametrize(("change", "words"), [case[1:] for case in LINES], ids=[case[0] for case in LINES])
def test_vocab_txt(bert_folder: Path, copy_of: Any, change: Any, words: tuple[str, ...]) -> None:
    lines = (bert_folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    folder = copy_of(bert_folder, vocab__txt=change(lines))
    _fails(lambda: BertTokenizer.from_pretrained(folder), *words)
    _fails(lambda: BertTokenizer(folder / "vocab.txt"), *words)


@pytest.mark.parametrize("change", [lambda data: data.replace(b"\n", b"\r\n"), lambda data: b"\xef\xbb\xbf" + data])
def test_crlf_and_bom_give_the_same_ids(bert_folder: Path, roberta_folder: Path, copy_of: Any, change: Any) -> None:
    text = "The naïve cat's [MASK] 1234"
    clean = BertTokenizer.from_pretrained(bert_folder)
    changed = BertTokenizer.from_pretrained(
        copy_of(bert_folder, vocab__txt=change((bert_folder / "vocab.txt").read_bytes()))
    )
    assert changed.get_vocab() == clean.get_vocab()
    merges, vocabulary = ((roberta_folder / name).read_bytes() for name in ("merges.txt", "vocab.json"))
    roberta = RobertaTokenizer.from_pretrained(
        copy_of(roberta_folder, merges__txt=change(merges), vocab__json=change(vocabulary))
    )
    assert roberta(text) == RobertaTokenizer.from_pretrained(roberta_folder)(text)


def _without(vocabulary: dict[str, int], token: str) -> dict[str, int]:
    return {key: index - (index > vocabulary[token]) for key, index in vocabulary.items() if key != token}


BPE: list[tuple[str, Callable[[dict[str, int], list[str]], tuple[Any, Any]], tuple[str, ...]]] = [
    ("hole", lambda v, m: ({k: i + (i > 50) for k, i in v.items()}, m), ("vocab.json", "without holes", "51")),
    ("id twice", lambda v, m: ({**v, "Ġa": 9}, m), ("vocab.json", "Ġa", "id 9", "belongs")),
    ("negative id", lambda v, m: ({**v, "Ġa": -1}, m), ("vocab.json", "Ġa", "-1")),
    ("text as id", lambda v, m: ({**v, "Ġa": "7"}, m), ("vocab.json", "Ġa")),
    ("true as id", lambda v, m: ({**v, "Ġa": True}, m), ("vocab.json", "Ġa", "True")),
    ("huge id", lambda v, m: ({**v, "Ġa": 2**31}, m), ("vocab.json", "Ġa", "2147483648")),
    ("no byte", lambda v, m: (_without(v, "ÿ"), m), ("vocab.json", "256 bytes", "ÿ")),
    ("no <s>", lambda v, m: (_without(v, "<s>"), m), ("vocab.json", "<s>")),
    ("no </s>", lambda v, m: (_without(v, "</s>"), m), ("vocab.json", "</s>")),
    ("key twice", lambda v, m: ('{"a": 0, "a": 1}', m), ("vocab.json", "twice")),
    ("a list", lambda v, m: ("[]", m), ("vocab.json", "object")),
    ("cut", lambda v, m: ('{"a": 0, "b"', m), ("vocab.json", "JSON")),
    ("empty", lambda v, m: ("{}", m), ("vocab.json", "no token")),
    ("foreign merge", lambda v, m: (v, [*m, "q ÿ"]), ("merges.txt", "q ÿ", "'qÿ'")),
    ("merge of three", lambda v, m: (v, [*m[:4], "a b c", *m[4:]]), ("merges.txt", "line 5", "a b c")),
    ("merge of one", lambda v, m: (v, [*m[:4], "ab", *m[4:]]), ("merges.txt", "line 5")),
    ("blank line", lambda v, m: (v, [*m[:4], "", *m[4:]]), ("merges.txt", "line 5")),
    ("merge twice", lambda v, m: (v, [*m, m[3]]), ("merges.txt", "line 4 already")),
    ("merges cut", lambda v, m: (v, m[:-1]), ("merges.txt", "cut?")),
    ("no merges", lambda v, m: (v, []), ("merges.txt", "cut?")),
]


@pytest.mark.parametrize(("change", "words"), [case[1:] for case in BPE], ids=[case[0] for case in BPE])
def test_vocab_json_and_merges(roberta_folder: Path, copy_of: Any, change: Any, words: tuple[str, ...]) -> None:
    merges = (roberta_folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    vocabulary, merges = change(json.loads((roberta_folder / "vocab.json").read_text(encoding="utf-8")), merges)
    folder = copy_of(roberta_folder, vocab__json=vocabulary, merges__txt="\n".join(merges))
    _fails(lambda: RobertaTokenizer.from_pretrained(folder), *words)


SENTENCEPIECE: list[tuple[str, Callable[[bytes], bytes], tuple[str, ...]]] = [
    ("empty", lambda data: b"", ()),
    ("cut", lambda data: data[:-100], ()),
    ("no normalizer", lambda data: data[: _end_of_pieces(data)], ("cut",)),
    ("text", lambda data: b"not a model\n" * 9, ()),
    ("other pieces", lambda data: data.replace(b"</s>", b"<_s>"), ("</s>",)),
]


def _end_of_pieces(data: bytes) -> int:
    """Where the last piece ends: the file up to there is a valid message, but without specs."""
    at = 0
    while data[at] == 0x0A:
        at += 2 + data[at + 1]
    return at


@pytest.mark.parametrize(("change", "words"), [case[1:] for case in SENTENCEPIECE], ids=[c[0] for c in SENTENCEPIECE])
def test_sentencepiece(sentencepiece_folder: Path, copy_of: Any, change: Any, words: tuple[str, ...]) -> None:
    data = (sentencepiece_folder / "sentencepiece.bpe.model").read_bytes()
    folder = copy_of(sentencepiece_folder, **{"sentencepiece__bpe__model": change(data)})
    _fails(lambda: XLMRobertaTokenizer.from_pretrained(folder), "sentencepiece.bpe.model", *words)


def test_a_sentencepiece_bpe_model_is_refused(tmp_path: Path) -> None:
    import sentencepiece

    with (tmp_path / "sentencepiece.bpe.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a b c abc"] * 9), model_writer=file, vocab_size=9, model_type="bpe", minloglevel=2
        )
    _fails(lambda: CamembertTokenizer.from_pretrained(tmp_path), "model_type", "unigram")


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        for key in parents:
            document = document[int(key) if isinstance(document, list) else key]
        document[int(last) if isinstance(document, list) else last] = value  # type: ignore[index]

    return change


def _drop(token: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["model"]["vocab"] = _without(document["model"]["vocab"], token)
        document["added_tokens"] = []

    return change


def _token(content: str, index: Any) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, "special": True, **flags}


def _special(name: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": 0}}


def _nothing(name: str) -> dict[str, Any]:
    return {"id": name, "ids": [], "tokens": []}


def _roberta(sep: list[Any], cls: list[Any]) -> dict[str, Any]:
    return {"type": "RobertaProcessing", "sep": sep, "cls": cls, "trim_offsets": True, "add_prefix_space": False}


def _in_sequence(document: dict[str, Any]) -> None:
    template = document["post_processor"]
    template["single"].append(_special("[START]"))
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    document["post_processor"] = {"type": "Sequence", "processors": [byte_level, template]}


def _doubling(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": [*steps] * 60}


TURNS = [
    {"type": "Replace", "pattern": {"String": "l"}, "content": "\uff2d\uff2d"},  # two wide M
    {"type": "NFKC"},
    {"type": "Replace", "pattern": {"String": "M"}, "content": "ll"},
]
SPLIT = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
JSON: list[tuple[str, Callable[[dict[str, Any]], None], tuple[str, ...]]] = [
    ("no model", _set("model", None), ("model", "NoneType")),
    ("unknown model", _set("model/type", "Markov"), ("model.type", "Markov")),
    ("other model", _set("model/type", "Unigram"), ("model.type", "WordPiece", "Unigram")),
    ("vocab is a list", _set("model/vocab", []), ("model.vocab",)),
    ("id negative", _set("model/vocab/a", -4), ("'a'", "-4")),
    ("id text", _set("model/vocab/a", "4"), ("'a'",)),
    ("id 2^31", _set("model/vocab/a", 2**31), ("'a'", "2147483648")),
    ("id past the table", _set("model/vocab/a", 5_000_000), ("'a'", "5000000", "holes")),
    ("id twice", _set("model/vocab/a", 4), ("id 4", "belongs")),
    ("no unk", _drop("[UNK]"), ("unk_token", "[UNK]")),
    ("no cls", _drop("[CLS]"), ("[CLS]",)),
    ("unk not named", _set("model/unk_token", None), ("unk_token", "None")),
    ("added token moved", _set("added_tokens/0/id", 3), ("added_tokens[0]", "[PAD]")),
    ("added token far away", _set("added_tokens", [_token("<new>", 4000)]), ("<new>", "4000")),
    (
        "added tokens out of order",
        lambda d: d["added_tokens"].extend(
            [_token("<b>", len(d["model"]["vocab"]) + 1), _token("<a>", len(d["model"]["vocab"]))]
        ),
        ("added_tokens", "<b>"),
    ),
    ("added token without id", _set("added_tokens", [{"content": "<new>"}]), ("missing field `id`",)),
    ("added token no object", _set("added_tokens", ["<new>"]), ("<new>", "AddedToken")),
    ("template token absent", _set("post_processor/special_tokens/[SEP]/tokens", ["[END]"]), ("[END]",)),
    ("template id wrong", _set("post_processor/special_tokens/[SEP]/ids", [9]), ("[SEP]", "9")),
    (
        "template names what it lacks",
        _set("post_processor/single", [_special("[START]")]),
        ("post_processor", "[START]"),
    ),
    ("template of pairs names it", _set("post_processor/pair", [_special("[START]")]), ("post_processor", "[START]")),
    ("template name unknown", _set("post_processor/special_tokens", {}), ("post_processor", "[CLS]")),
    ("template token without ids", _set("post_processor/special_tokens/[SEP]/ids", []), ("[SEP]", "[]")),
    ("template tokens fewer than ids", _set("post_processor/special_tokens/[SEP]/tokens", []), ("[SEP]", "[]")),
    ("template without tokens", _set("post_processor/special_tokens/[SEP]", _nothing("[SEP]")), ("[SEP]", "[]")),
    ("template id past the table", _set("post_processor/special_tokens/[SEP]/ids", [99999]), ("[SEP]", "99999")),
    ("template inside a sequence", _in_sequence, ("post_processor", "[START]")),
    ("sep of another id", _set("post_processor", _roberta(["[SEP]", 9], ["[CLS]", 2])), ("[SEP]", "9")),
    ("cls of no id", _set("post_processor", _roberta(["[SEP]", 3], ["[START]", 2])), ("[START]", "2")),
    ("template unknown", _set("post_processor/single", [{"Sequence": {"id": "Q", "type_id": 0}}]), ()),
    ("regex bomb", _set("pre_tokenizer", SPLIT), ("pre_tokenizer", "linear")),
    (
        "regex in the normalizer",
        _set("normalizer", {"type": "Replace", "pattern": {"Regex": "(a|a)*b"}, "content": ""}),
        ("normalizer", "linear"),
    ),
    ("unknown normalizer", _set("normalizer", {"type": "Rot13"}), ()),
    (
        "text bomb",
        _set("normalizer", _doubling({"type": "Replace", "pattern": {"String": "l"}, "content": "ll"})),
        ("normalizer", "multiply"),
    ),
    ("text bomb in turns", _set("normalizer", _doubling(*TURNS)), ("normalizer", "multiply")),
    ("text bomb of bytes", _set("normalizer", _doubling({"type": "ByteLevel"})), ("normalizer", "multiply")),
]


@pytest.mark.parametrize(("change", "words"), [case[1:] for case in JSON], ids=[case[0] for case in JSON])
def test_tokenizer_json(bert_folder: Path, tmp_path: Path, change: Any, words: tuple[str, ...]) -> None:
    BertTokenizer.from_pretrained(bert_folder).save_pretrained(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    change(document)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    _fails(lambda: AutoTokenizer.from_pretrained(tmp_path), "tokenizer.json", *words)


def test_replacements_that_do_not_feed_each_other_open(bert_folder: Path, tmp_path: Path) -> None:
    BertTokenizer.from_pretrained(bert_folder).save_pretrained(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    steps = [{"type": "Replace", "pattern": {"String": sign}, "content": "sign of a"} for sign in "&%+=@#*^~<>|"]
    document["normalizer"] = {"type": "Sequence", "normalizers": steps}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    assert AutoTokenizer.from_pretrained(tmp_path)("a % a").tokens().count("a") == 3


RENAMED: list[tuple[str, dict[str, Any]]] = [
    ("cls", {"tokenizer_class": "BertTokenizer", "cls_token": "[MASK]"}),
    ("sep", {"tokenizer_class": "BertTokenizer", "sep_token": {"content": "[MASK]"}}),
    ("cls, once more bos", {"tokenizer_class": "BertTokenizer", "cls_token": "[MASK]", "bos_token": "[CLS]"}),
    ("of no class", {"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "[MASK]", "sep_token": "[SEP]"}),
]


@pytest.mark.parametrize("changes", [case[1] for case in RENAMED], ids=[case[0] for case in RENAMED])
def test_a_special_token_renamed_beside_the_template(
    bert_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Otherwise cls_token_id would be another id than the first of every sequence."""
    BertTokenizer.from_pretrained(bert_folder).save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": changes.pop("tokenizer_class")}))
    AutoTokenizer.from_pretrained(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(changes))
    _fails(lambda: AutoTokenizer.from_pretrained(tmp_path), "tokenizer.json", "post_processor", "[MASK]", "'[SEP]'")


def test_templates_that_the_settings_do_not_contradict(bert_folder: Path, tmp_path: Path) -> None:
    BertTokenizer.from_pretrained(bert_folder).save_pretrained(tmp_path)
    _fails(lambda: BertTokenizer.from_pretrained(tmp_path, sep_token="[MASK]"), "sep_token", "[MASK]")
    for changes in (
        {},
        {"pad_token": "[PAD]", "eos_token": "[SEP]"},
        {"bos_token": "[MASK]"},
        {"cls_token": "[MASK]", "extra_special_tokens": ["[CLS]", "[SEP]"]},
        {"cls_token": "[CLS]", "sep_token": "[SEP]"},
    ):
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **changes}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        assert AutoTokenizer.from_pretrained(tmp_path)("a").tokens() == ["[CLS]", "a", "[SEP]"]


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "\ud800".encode("utf-8", "surrogatepass"), "[" * 100_000])
def test_tokenizer_json_that_is_no_object(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    _fails(lambda: BertTokenizer.from_pretrained(tmp_path), "tokenizer.json")
    _fails(lambda: Tokenizer(tokenizer_file=tmp_path / "tokenizer.json"), "tokenizer.json")


MERGES: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    (
        "prefix longer than the token",
        {"merges": [["a", "b"]], "continuing_subword_prefix": "####"},
        ("panicked",),
    ),
    ("unknown part", {"merges": [["a", "q"]]}, ("`q` out of vocabulary",)),
    ("unknown whole", {"merges": [["a", "b"], ["b", "a"]]}, ("`ba` out of vocabulary",)),
    ("three parts", {"merges": ["a b c"]}, ("Merges", "line 1")),
    ("no list", {"merges": {}}, ("Merge",)),
    ("numbers", {"merges": [[1, 2]]}, ("Merge",)),
    ("unk absent", {"merges": [], "unk_token": "<unk>"}, ("unk_token", "<unk>")),
]


@pytest.mark.parametrize(("model", "words"), [case[1:] for case in MERGES], ids=[case[0] for case in MERGES])
def test_merges_of_a_tokenizer_json(tmp_path: Path, model: dict[str, Any], words: tuple[str, ...]) -> None:
    document = {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, **model}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    _fails(lambda: AutoTokenizer.from_pretrained(tmp_path), "tokenizer.json", *words)


@pytest.mark.parametrize(
    "model",
    [
        {"vocab": [["<unk>", 0.0], ["a", -1.0]], "unk_id": 5},
        {"vocab": [["<unk>", 0.0], ["a", -1.0]], "unk_id": None},
        {"vocab": [["<unk>", 0.0], ["a", "x"]], "unk_id": 0},
        {"vocab": [["<unk>", 0.0], ["a", float("nan")]], "unk_id": 0},
        {"vocab": [["a", 0.0], ["a", -1.0]], "unk_id": 0},
        {"vocab": {"a": 0}, "unk_id": 0},
        {"vocab": [], "unk_id": 0},
    ],
)
def test_unigram_of_a_tokenizer_json(tmp_path: Path, model: dict[str, Any]) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"type": "Unigram", **model}}))
    _fails(lambda: AutoTokenizer.from_pretrained(tmp_path), "tokenizer.json")


def test_a_panic_of_the_library_is_a_checkpoint_error() -> None:
    from tokenizers import Tokenizer as Backend

    from minitrans.tokenizers.guards import blamed_on

    model = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]], "continuing_subword_prefix": "####"}

    def load() -> None:
        with blamed_on("f.json"):
            Backend.from_str(json.dumps({"version": "1.0", "model": model}))

    _fails(load, "f.json", "panicked")

    def interrupted() -> None:
        with blamed_on("f.json"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


CONFIG: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"tokenizer_config__json": {"tokenizer_class": "WhisperTokenizer"}}, ("tokenizer_class", "WhisperTokenizer")),
    ({"tokenizer_config__json": {"tokenizer_class": 7}}, ("tokenizer_class", "7")),
    ({"tokenizer_config__json": "[1]"}, ("tokenizer_config.json", "object")),
    ({"tokenizer_config__json": {"do_lower_case": "yes"}}, ("tokenizer_config.json", "do_lower_case", "yes")),
    ({"tokenizer_config__json": {"model_max_length": "512"}}, ("model_max_length", "512")),
    ({"tokenizer_config__json": {"model_max_length": -1}}, ("model_max_length", "-1")),
    ({"tokenizer_config__json": {"padding_side": "top"}}, ("padding_side", "top")),
    ({"tokenizer_config__json": {"cls_token": 5}}, ("cls_token", "5")),
    ({"tokenizer_config__json": {"cls_token": "[BEGIN]"}}, ("vocab.txt", "cls_token", "[BEGIN]")),
    ({"tokenizer_config__json": {"unk_token": None}}, ("unk_token",)),
    ({"tokenizer_config__json": {"additional_special_tokens": ["<e1>"]}}, ("<e1>",)),
    ({"special_tokens_map__json": {"sep_token": {"content": "[END]"}}}, ("sep_token", "[END]")),
    ({"special_tokens_map__json": {"sep_token": ["[SEP]"]}}, ("special_tokens_map.json", "sep_token")),
    ({"added_tokens__json": {"<e1>": 9999}}, ("<e1>", "9999")),
    ({"added_tokens__json": {"<e1>": "x"}}, ("added_tokens.json", "<e1>")),
    ({"added_tokens__json": {"[MASK]": 9}}, ("[MASK]", "9")),
    ({"tokenizer_config__json": {"added_tokens_decoder": {"x": {"content": "a"}}}}, ("added_tokens_decoder", "x")),
    ({"tokenizer_config__json": {"added_tokens_decoder": {"9": {"content": "[MASK]"}}}}, ("[MASK]", "9")),
    ({"tokenizer_config__json": {"added_tokens_decoder": {"9": "a"}}}, ("added_tokens_decoder",)),
    ({"config__json": {"model_type": "bert", "vocab_size": 100}}, ("vocab.txt", "config.json", "below 100")),
]


@pytest.mark.parametrize(("changes", "words"), CONFIG, ids=[str(case[0])[:70] for case in CONFIG])
def test_config_files(bert_folder: Path, copy_of: Any, changes: dict[str, Any], words: tuple[str, ...]) -> None:
    folder = copy_of(bert_folder, **changes)
    _fails(lambda: AutoTokenizer.from_pretrained(folder), *words)


def test_missing_files(tmp_path: Path, bert_folder: Path, roberta_folder: Path, copy_of: Any) -> None:
    _fails(lambda: AutoTokenizer.from_pretrained(tmp_path), "tokenizer.json", "none")
    _fails(lambda: BertTokenizer.from_pretrained(tmp_path), "vocab.txt", "no vocabulary file")
    _fails(lambda: RobertaTokenizer.from_pretrained(bert_folder), "vocab.json and merges.txt", "found vocab.txt")
    _fails(lambda: RobertaTokenizer.from_pretrained(copy_of(roberta_folder, merges__txt=None)), "found vocab.json")
    _fails(lambda: Tokenizer.from_pretrained(bert_folder), "expected tokenizer.json", "vocab.txt")
    _fails(lambda: BertTokenizer(tmp_path / "nothing.txt"), "nothing.txt")
    (tmp_path / "vocab.txt").mkdir()
    _fails(lambda: BertTokenizer.from_pretrained(tmp_path), "regular file")


def test_a_line_of_ten_megabytes(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("x" * 10_000_000)
    _fails(lambda: BertTokenizer.from_pretrained(tmp_path), "vocab.txt", "[UNK]")


def test_code_of_a_checkpoint_is_not_looked_at(bert_folder: Path, copy_of: Any) -> None:
    config = {
        "auto_map": {"AutoTokenizer": ["evil.Evil", None]},
        "trust_remote_code": True,
        "vocab_file": "/etc/passwd",
    }
    folder = copy_of(bert_folder, tokenizer_config__json=config)
    (folder / "evil.py").write_text("raise SystemExit(1)")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == BertTokenizer.from_pretrained(bert_folder).get_vocab()
    with pytest.raises(ValueError, match="never run"):
        AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
