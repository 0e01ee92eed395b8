"""Group G: config.json. Sizes are bounded by what the weights can be before anything is built; code keys are never followed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

CONFIG = "config.json"
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings", "type_vocab_size")  # fmt: skip
STORED = {"vocab_size": 37, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20, "max_position_embeddings": 33, "type_vocab_size": 2}  # fmt: skip
Damage = Callable[[Any], Any]


def text(content: str | bytes) -> Damage:
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda case: case.path(CONFIG).write_bytes(raw)


def keys(**changes: Any) -> Damage:
    return lambda case: case.write_config(**changes)


def spliced(key: str, literal: str) -> Damage:
    """A value that json.dumps would not write."""

    def damage(case: Any) -> None:
        stored = case.config()
        stored[key] = "@@"
        case.path(CONFIG).write_text(json.dumps(stored).replace('"@@"', literal))

    return damage


def latin(case: Any) -> None:
    case.path(CONFIG).write_bytes(json.dumps({**case.config(), "name": "Zoë"}, ensure_ascii=False).encode("latin-1"))


def without_type(case: Any) -> None:
    stored = case.config()
    del stored["model_type"]
    case.path(CONFIG).write_text(json.dumps(stored))


WRONG: list[tuple[str, Any]] = [
    ("0", 0), ("negative", -1), ("10^12", 10**12), ("2^63", 2**63), ("10^4000", 10**4000), ("text", "24"), ("null", None),
    ("a list", [24]), ("an object", {"a": 1}), ("a fraction", 24.5), ("a float", 24.0), ("true", True),
]  # fmt: skip
ROWS: list[tuple[str, Damage, tuple[str, ...]]] = [
    *((f"G {key} {label}", keys(**{key: value}), (CONFIG, key)) for key in SIZES for label, value in WRONG if (key, label) != ("type_vocab_size", "null")),
    *((f"G {key} infinite", spliced(key, "1e999"), (CONFIG, key, "inf")) for key in SIZES),
    *((f"G {key} NaN", spliced(key, "NaN"), (CONFIG, key, "nan")) for key in SIZES),
    *((f"G {key} of 10^5 digits", spliced(key, "9" * 10**5), (CONFIG, "digits")) for key in SIZES[:1]),
    *((f"G {key} one more", keys(**{key: STORED[key] + 1}), (key if key == "hidden_size" else "expected",)) for key in SIZES if "heads" not in key),
    *((f"G {key} large", keys(**{key: 900_000 if "heads" not in key and "layers" not in key else 900}), ("expected", "found")) for key in SIZES if "heads" not in key and key != "hidden_size"),
    ("G all sizes large", keys(vocab_size=10**8, hidden_size=10**6, intermediate_size=10**7, num_attention_heads=1000), ("expected shape", "[100000000, 1000000]", "faults")),
    ("G 1,000 layers", keys(num_hidden_layers=1000), (CONFIG, "num_hidden_layers", "1000", "tensors in model.safetensors")),
    ("G missing", lambda case: case.path(CONFIG).unlink(), (CONFIG, "found nothing")),
    ("G empty", text(""), (CONFIG, "JSON")),
    ("G not JSON", text("hidden_size: 24"), (CONFIG, "JSON")),
    ("G cut", text('{"model_type": "bert", "hidden_'), (CONFIG, "JSON")),
    ("G a list", text("[]"), (CONFIG, "object")),
    ("G null", text("null"), (CONFIG, "object")),
    ("G a number", text("7"), (CONFIG, "object")),
    ("G Latin-1", latin, (CONFIG, "UTF-8")),
    ("G UTF-16", text('{"model_type": "bert"}'.encode("utf-16")), (CONFIG, "UTF-8")),
    ("G NUL bytes", text("\0" * 100), (CONFIG, "JSON")),
    ("G nested 10^5", text('{"a":' * 10**5 + "1" + "}" * 10**5), (CONFIG, "JSON")),
    ("G lists nested 10^5", text("[" * 10**5), (CONFIG, "JSON")),
    ("G two documents", text("{}{}"), (CONFIG, "JSON")),
    ("G git-lfs pointer", text("version https://git-lfs.github.com/spec/v1\n"), (CONFIG, "git lfs pull")),
    ("G HTML page", text("\n<!doctype html>"), (CONFIG, "HTML")),
    ("G key twice", lambda case: case.path(CONFIG).write_text(json.dumps(case.config())[:-1] + ', "hidden_size": 24}'), (CONFIG, "hidden_size", "twice")),
    ("G heads that do not divide", keys(num_attention_heads=5), (CONFIG, "hidden_size", "num_attention_heads=5")),
    ("G eps NaN", spliced("layer_norm_eps", "NaN"), (CONFIG, "layer_norm_eps", "nan", "(0, 1]")),
    ("G eps negative", keys(layer_norm_eps=-1e-12), (CONFIG, "layer_norm_eps", "-1e-12")),
    ("G eps 0", keys(layer_norm_eps=0.0), (CONFIG, "layer_norm_eps", "0.0")),
    ("G eps 2", keys(layer_norm_eps=2), (CONFIG, "layer_norm_eps", "2")),
    ("G eps text", keys(layer_norm_eps="1e-12"), (CONFIG, "layer_norm_eps", "1e-12")),
    ("G eps null", keys(layer_norm_eps=None), (CONFIG, "layer_norm_eps", "None")),
    ("G eps a list", keys(layer_norm_eps=[1e-12]), (CONFIG, "layer_norm_eps")),
    *((f"G {key} {value}", spliced(key, value), (CONFIG, key)) for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout") for value in ("NaN", "-0.1", "1.5", "1e999", '"0.1"', "true", "[0.1]")),
    ("G activation unknown", keys(hidden_act="gleu"), (CONFIG, "gleu", "gelu")),
    ("G activation code", keys(hidden_act="__import__('os').system('true')"), (CONFIG, "__import__")),
    ("G activation a dunder", keys(hidden_act="__class__"), (CONFIG, "__class__")),
    ("G activation a list", keys(hidden_act=["gelu"]), (CONFIG, "hidden_act")),
    ("G activation null", keys(hidden_act=None), (CONFIG, "hidden_act")),
    ("G activation of 1 MB", keys(hidden_act="g" * 10**6), (CONFIG, "ggg")),
    ("G position type unknown", keys(position_embedding_type="rotary"), (CONFIG, "position_embedding_type", "rotary")),
    ("G position type without its tables", keys(position_embedding_type="relative_key"), ("distance_embedding", "found none")),
    ("G model_type unknown", keys(model_type="gpt17"), (CONFIG, "model_type", "gpt17", "bert")),
    ("G model_type of another family", keys(model_type="distilbert"), (CONFIG,)),
    ("G model_type a path", keys(model_type="../../evil"), (CONFIG, "model_type", "../../evil")),
    ("G model_type a module", keys(model_type="os:system"), (CONFIG, "model_type", "os:system")),
    ("G model_type a number", keys(model_type=7), (CONFIG, "model_type", "7")),
    ("G model_type a list", keys(model_type=["bert"]), (CONFIG, "model_type")),
    ("G dtype unknown", keys(dtype="float13"), (CONFIG, "dtype", "float13", "float32")),
    ("G dtype a dunder", keys(dtype="__class__"), (CONFIG, "dtype", "__class__")),
    ("G dtype int8", keys(torch_dtype="int8"), (CONFIG, "torch_dtype", "int8")),
    ("G dtype a number", keys(torch_dtype=16), (CONFIG, "torch_dtype", "16")),
    ("G quantised", keys(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}), (CONFIG, "quantization_config", "None")),
    ("G quantised by code", keys(quantization_config={"quant_method": "evil.module"}), (CONFIG, "quantization_config")),
    ("G encoder-decoder", keys(is_encoder_decoder=True), (CONFIG, "is_encoder_decoder", "True")),
    ("G nested settings", keys(note=json.loads("[" * 40 + "]" * 40)), (CONFIG, "note", "32 levels")),
    ("G a key that is ours", keys(extra={"hidden_size": 1}), (CONFIG, "extra", "taken by the code")),
    ("G a key with escape codes", keys(**{"\x1b[2J\x07": "\x1b[2J"}), (CONFIG, r"\x1b[2J\x07")),
    ("G a key of 1 MB", keys(**{"k" * 10**6: 1}), (CONFIG, "kkk...")),
    ("G a dunder key", keys(__init__=1, __class__="x"), (CONFIG, "__init__")),
    ("G a key that is a method", keys(to_dict="x"), (CONFIG, "to_dict")),
    ("G attention unknown", keys(attention={"name": "os:system"}), (CONFIG, "os:system")),
    ("G attention a path", keys(attention="../evil"), (CONFIG, "../evil")),
    ("G attention with an odd option", keys(attention={"name": "sliding_window", "window": "x"}), (CONFIG, "window")),
    ("G pad id past the table", keys(pad_token_id=37), (CONFIG, "pad_token_id", "37")),
    ("G pad id negative", keys(pad_token_id=-2), (CONFIG, "pad_token_id", "-2")),
    ("G pad id text", keys(pad_token_id="0"), (CONFIG, "pad_token_id")),
    ("G num_labels 0", keys(num_labels=0), (CONFIG, "num_labels", "0")),
    ("G num_labels 10^9", keys(num_labels=10**9), (CONFIG, "num_labels", str(10**9))),
    ("G num_labels 10^8 as a text", keys(num_labels="100000000"), (CONFIG, "num_labels", "100000000")),
    ("G num_labels 10^8 for one name", keys(num_labels=10**8, id2label={"0": "a"}), (CONFIG, "num_labels", "100000000")),
    ("G num_labels infinite", spliced("num_labels", "1e999"), (CONFIG, "num_labels", "inf")),
    ("G num_labels NaN", spliced("num_labels", "NaN"), (CONFIG, "num_labels", "nan")),
    ("G settings 900 levels deep", spliced("note", "[" * 900 + "]" * 900), (CONFIG, "note", "32 levels")),
    ("G num_labels 10^7", keys(num_labels=10**7), (CONFIG, "num_labels", str(10**7))),
    ("G num_labels against id2label", keys(num_labels=1, id2label={"0": "a", "1": "b"}), (CONFIG, "num_labels", "2", "1")),
    ("G id2label a text", keys(id2label="ab"), (CONFIG, "id2label")),
    ("G id2label of more than num_labels", keys(num_labels=3, id2label={"0": "a", "7": "b"}), (CONFIG, "num_labels")),
    ("G id2label with text ids", keys(id2label={"zero": "a"}), (CONFIG, "id2label")),
    ("G id2label with other digits", keys(id2label={"\u0660": "a"}), (CONFIG, "id2label")),
    ("G id2label with nested names", keys(id2label={"0": {"a": 1}}), (CONFIG, "id2label")),
    ("G label2id of text", keys(label2id={"a": "zero"}), (CONFIG, "label2id")),
    ("G pruned a layer that is none", keys(pruned_heads={"7": [0]}), (CONFIG, "pruned_heads")),
    ("G pruned all heads", keys(pruned_heads={"0": [0, 1, 2]}), (CONFIG, "pruned_heads")),
    ("G pruned text", keys(pruned_heads={"0": "all"}), (CONFIG, "pruned_heads")),
    ("G pruned a head of 10^12", keys(pruned_heads={"0": [10**12]}), (CONFIG, "pruned_heads")),
    ("G pruned layers by the thousand", keys(num_hidden_layers=1000, num_attention_heads=10_000, hidden_size=10_000, pruned_heads={str(n): [0] for n in range(1000)}), (CONFIG, "num_hidden_layers")),
    ("G architectures an object", keys(architectures={"0": "BertModel"}), (CONFIG, "architectures")),
    ("G architectures numbers", keys(architectures=[1]), (CONFIG, "architectures")),
    ("G is_decoder text", keys(is_decoder="yes"), (CONFIG, "is_decoder")),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_refused(damage: Damage, words: tuple[str, ...], case: Any, refused: Any) -> None:
    damage(case)
    refused(*words)


NAMELESS: list[tuple[str, Damage]] = [
    ("G {}", text("{}")),
    ("G model_type null", keys(model_type=None)),
    ("G model_type absent", without_type),
]


@pytest.mark.parametrize("damage", [row[1] for row in NAMELESS], ids=[row[0] for row in NAMELESS])
def test_the_auto_class_needs_a_type(damage: Damage, case: Any, opened: Any) -> None:
    """A class named by the caller (convert's here) does without."""
    damage(case)
    kind, message = opened().errors["from_pretrained"]
    assert kind == "CheckpointError"
    assert "config.json: model_type: expected one of bert" in message


def evil_module(**changes: Any) -> Damage:
    """The keys, and the module they name, which makes the canary folder when it is imported."""

    def damage(case: Any) -> None:
        for name in ("modeling_evil.py", "configuration_evil.py", "evil.py", "kernel/__init__.py", "__init__.py"):
            path = case.path(name)
            path.parent.mkdir(exist_ok=True)
            path.write_text("import os\nos.mkdir(os.environ['MINITRANS_CANARY'])\n")
        case.write_config(**changes)

    return damage


ODD: list[tuple[str, Damage, str]] = [
    ("G a key nobody knows", keys(hiden_size=24), "hiden_size"),
    ("G many keys nobody knows", keys(**{f"k{number}": "x" * 1000 for number in range(5000)}), "k11, ...: kept"),
    ("G id2label with a hole", keys(id2label={"0": "a", "2": "b"}), "id2label names 0, 2"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "word"), [row[1:] for row in ODD], ids=[row[0] for row in ODD])
def test_told_in_one_warning(damage: Damage, word: str, case: Any, harmless: Any) -> None:
    damage(case)
    told = [line for line in harmless(word).warnings if word in line]
    assert len(told) == 1  # per model loaded by from_pretrained; a conversion tells it in its report


WELCOME: list[tuple[str, Damage]] = [
    ("G auto_map", evil_module(auto_map={"AutoConfig": "configuration_evil.EvilConfig", "AutoModel": "modeling_evil.EvilModel"})),
    ("G auto_map of another repository", evil_module(auto_map={"AutoModel": "evil/repo--modeling_evil.EvilModel"})),
    ("G trust_remote_code", evil_module(trust_remote_code=True, auto_map={"AutoModel": "modeling_evil.EvilModel"})),
    ("G attention kernel, internal key", evil_module(_attn_implementation_internal="evil/kernel")),
    ("G attention kernel, public key", evil_module(attn_implementation="evil/kernel")),
    ("G attention kernel, old key", evil_module(_attn_implementation="evil/kernel@main:evil")),
    ("G experts kernel", evil_module(_experts_implementation_internal="evil/kernel")),
    ("G _name_or_path elsewhere", evil_module(_name_or_path="/etc/passwd")),
    ("G _name_or_path a URL", evil_module(_name_or_path="https://evil.example/x")),
    ("G custom_pipelines", evil_module(custom_pipelines={"x": {"impl": "evil.Pipeline"}})),
    ("G architecture that is code", evil_module(architectures=["evil.EvilModel"])),
    ("G tokenizer_class that is code", evil_module(tokenizer_class="evil.Evil")),
    ("G pickles and code beside it", evil_module()),
    ("G chunked", keys(chunk_size_feed_forward=2**40)),
    ("G architectures text", keys(architectures="BertModel")),
    ("G id2label a list", keys(id2label=["a"])),
    ("G type_vocab_size null", keys(type_vocab_size=None)),
    ("G byte order mark", lambda case: case.path(CONFIG).write_bytes(b"\xef\xbb\xbf" + case.path(CONFIG).read_bytes())),
    ("G CRLF", lambda case: case.path(CONFIG).write_bytes(case.path(CONFIG).read_bytes().replace(b"\n", b"\r\n"))),
]  # fmt: skip


@pytest.mark.parametrize("damage", [row[1] for row in WELCOME], ids=[row[0] for row in WELCOME])
def test_never_followed(damage: Damage, case: Any, harmless: Any) -> None:
    damage(case)
    assert not harmless().warnings
    assert not list(case.folder.rglob("__pycache__"))


def test_the_module_of_those_rows_is_harmful(case: Any) -> None:
    evil_module()(case)
    exec(case.path("modeling_evil.py").read_text())
    assert case.canary.is_dir()
