"""Group D: a sound file whose tensors do not fit the model. E: an index and its shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch

Tensors = dict[str, torch.Tensor]
WORDS, QUERY, POOLER = (
    "embeddings.word_embeddings.weight",
    "encoder.layer.0.attention.self.query.weight",
    "pooler.dense.bias",
)
FILE = "model.safetensors: "


def tensors(change: Callable[[Tensors], Any]) -> Callable[[Any], None]:
    """A damage that changes the table of tensors, in place or by returning a new one."""

    def damage(case: Any) -> None:
        held = case.tensors()
        case.write_tensors({k: t.contiguous() for k, t in (change(held) or held).items()})

    return damage


def put(**changes: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], None]:
    """Tensors replaced by a function of what they were; `__` stands for a dot."""
    return tensors(
        lambda held: held.update({k.replace("__", "."): f(held[k.replace("__", ".")]) for k, f in changes.items()})
    )


def without(*starts: str) -> Callable[[Any], None]:
    return tensors(lambda held: {k: t for k, t in held.items() if not k.startswith(starts)})


def renamed(change: Callable[[str], str]) -> Callable[[Any], None]:
    return tensors(lambda held: {change(k): t for k, t in held.items()})


MISFITS: list[tuple[str, Callable[[Any], None], tuple[str, ...]]] = [
    ("D one tensor missing", without(QUERY), (FILE, "encoder.layer.0.attention.query.weight", "self.query.weight", "found none")),
    ("D embeddings missing", without("embeddings."), (FILE, "embeddings.word_embeddings.weight", "found none")),
    ("D a layer missing", without("encoder.layer.1."), (FILE, "encoder.layer.1.attention.self.query.weight", "found none")),
    ("D all missing", tensors(lambda held: {"x": torch.ones(2)}), (FILE, "found none")),
    ("D half a pooler missing", without(POOLER), (FILE, "pooler.dense.bias", "found none")),
    ("D other letter case", renamed(lambda k: k.replace("LayerNorm", "layernorm")), (FILE, "embeddings.LayerNorm.weight")),
    ("D a layer number with a zero", renamed(lambda k: k.replace("layer.1.", "layer.01.")), (FILE, "encoder.layer.1.", "found none")),
    ("D a layer number in other digits", renamed(lambda k: k.replace("layer.1.", "layer.\u0661.")), (FILE, "found none")),
    ("D a layer number negative", renamed(lambda k: k.replace("layer.1.", "layer.-1.")), (FILE, "found none")),
    ("D transposed table", put(embeddings__word_embeddings__weight=lambda t: t.T), (FILE, WORDS, "[37, 24]", "[24, 37]")),
    ("D flattened", put(encoder__layer__0__attention__self__query__weight=torch.Tensor.flatten), (FILE, QUERY, "[24, 24]", "[576]")),
    ("D one more dimension", put(pooler__dense__bias=lambda t: t[None]), (FILE, POOLER, "[24]", "[1, 24]; pass ignore_mismatched_sizes")),
    ("D a bias that would broadcast", put(pooler__dense__bias=lambda t: t[:1]), (FILE, POOLER, "[24]", "[1]")),
    ("D a scalar", put(pooler__dense__bias=lambda t: t[0].clone()), (FILE, POOLER, "[24]", "[]; pass ignore_mismatched_sizes")),
    ("D an empty tensor", put(pooler__dense__bias=lambda t: t[:0].clone()), (FILE, POOLER, "[24]", "[0]")),
    ("D a short table", put(embeddings__word_embeddings__weight=lambda t: t[:-1].clone()), (FILE, WORDS, "[37, 24]", "[36, 24]")),
    ("D a long position table", put(embeddings__position_embeddings__weight=lambda t: t.repeat(2, 1)), (FILE, "position", "[66, 24]")),
    ("D int weights", put(pooler__dense__bias=lambda t: t.int()), (FILE, POOLER, "floating-point", "int32")),
    ("D int8 weights", put(pooler__dense__bias=lambda t: t.char()), (FILE, POOLER, "int8")),
    ("D bool weights", put(pooler__dense__bias=lambda t: t > 0), (FILE, POOLER, "bool")),
    ("D complex weights", put(pooler__dense__bias=lambda t: t.to(torch.complex64)), (FILE, POOLER, "complex64")),
    ("D float8 weights", put(pooler__dense__bias=lambda t: t.to(torch.float8_e4m3fn)), (FILE, POOLER, "float8")),
    ("D bert.x and x", tensors(lambda held: held.update({f"bert.{WORDS}": held[WORDS].clone()})), (FILE, WORDS, f"bert.{WORDS}")),
    ("D gamma and weight", tensors(lambda held: held.update({"embeddings.LayerNorm.gamma": torch.ones(24)})), (FILE, "LayerNorm.gamma", "LayerNorm.weight")),
    ("D many faults", renamed(lambda k: f"x.{k}"), (FILE, "faults, not a checkpoint of BertModel")),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), [row[1:] for row in MISFITS], ids=[row[0] for row in MISFITS])
def test_refused(damage: Callable[[Any], None], words: tuple[str, ...], case: Any, refused: Any) -> None:
    damage(case)
    refused(*words)


def more(**extra: torch.Tensor) -> Callable[[Any], None]:
    return tensors(lambda held: held.update(extra))


def named(name: str) -> Callable[[Any], None]:
    return tensors(lambda held: held.update({name: torch.ones(2)}))


HARMLESS: list[tuple[str, Callable[[Any], None], tuple[str, ...]]] = [
    ("D extra tensor", named("strange.weight"), ("strange.weight",)),
    ("D extra layer", tensors(lambda held: held.update({k.replace("layer.0", "layer.7"): t.clone() for k, t in held.items()})), ("encoder.layer.7.",)),
    ("D NaN", put(pooler__dense__bias=lambda t: t * float("nan")), ("pooler.dense.bias: holds NaN",)),
    ("D infinity", put(pooler__dense__bias=lambda t: t + float("inf")), ("pooler.dense.bias: holds NaN or inf",)),
    ("D one NaN among many", tensors(lambda held: held[WORDS].view(-1).__setitem__(100, float("nan"))), ("word_embeddings.weight: holds NaN",)),
    ("D escape codes in a name", named("\x1b]0;owned\x07\x1b[2J"), (r"\x1b]0;owned\x07\x1b[2J",)),
    ("D a name of 1 MB", named("x" * 10**6), ("xxxxx...",)),
    ("D a name in markup", named("[red]x[/red]"), ("[red]x[/red]",)),
    ("D dunder names", named("__class__.__init__.__globals__"), ("__class__.__init__",)),
    ("D name of a method", named("forward"), ("forward",)),
    ("D name of a module", named("encoder"), ("encoder",)),
    ("D empty name", named(""), ("not used",)),
    ("D dots", named("..encoder..layer.."), ("..encoder",)),
    ("D braces", named("encoder.layer.{layer}.x"), ("{layer}",)),
    ("D right-to-left override", named("a\u202eb"), (r"\u202e",)),
    ("D lone surrogate", lambda case: _surrogate(case), (r"\ud800",)),
]  # fmt: skip


def _surrogate(case: Any) -> None:
    entries, data = case.header()
    end = max(info["data_offsets"][1] for key, info in entries.items() if key != "__metadata__")
    entries["\ud800"] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}
    case.write_header(entries, data)


@pytest.mark.parametrize(("damage", "words"), [row[1:] for row in HARMLESS], ids=[row[0] for row in HARMLESS])
def test_warned(damage: Callable[[Any], None], words: tuple[str, ...], case: Any, harmless: Any) -> None:
    damage(case)
    harmless(*words)


# -- shards -----------------------------------------------------------------------------------------------------------

ONE, TWO, INDEX = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"


def shard(case: Any) -> dict[str, Any]:
    """Rewrites the weights as two shards; returns the index, not written yet."""
    held = case.tensors()
    keys = list(held)
    halves = {ONE: keys[:9], TWO: keys[9:]}
    for name, part in halves.items():
        case.write_tensors({key: held[key] for key in part}, name)
    case.path().unlink()
    total = sum(t.nbytes for t in held.values())
    return {
        "metadata": {"total_size": total},
        "weight_map": {key: name for name, part in halves.items() for key in part},
    }


def write_index(case: Any, index: Any) -> None:
    case.path(INDEX).write_text(index if isinstance(index, str) else json.dumps(index))


def sends(where: Any) -> Callable[[Any, dict[str, Any]], Any]:
    """One tensor is said to lie somewhere else."""

    def damage(case: Any, index: dict[str, Any]) -> None:
        index["weight_map"][QUERY] = where
        outside = case.folder.parent / "outside.safetensors"
        shutil.copy(case.path(ONE), outside)

    return damage


def replaces(index: Any) -> Callable[[Any, dict[str, Any]], Any]:
    return lambda case, old: index(old) if callable(index) else index


def _swap(case: Any, index: dict[str, Any]) -> None:
    case.path("x").write_bytes(case.path(ONE).read_bytes())
    case.path(TWO).replace(case.path(ONE))
    case.path("x").replace(case.path(TWO))


def _doubled(case: Any, index: dict[str, Any]) -> None:
    from safetensors.torch import load_file

    case.write_tensors({**load_file(case.path(TWO)), next(iter(index["weight_map"])): torch.ones(24)}, TWO)


def _pickle(case: Any, index: dict[str, Any]) -> None:
    torch.save({QUERY: torch.ones(24, 24)}, case.path("model-00001-of-00002.bin"))
    index["weight_map"][QUERY] = "model-00001-of-00002.bin"


SHARDS: list[tuple[str, Callable[[Any, dict[str, Any]], Any], tuple[str, ...]]] = [
    ("E shard missing", lambda case, index: case.path(TWO).unlink(), (TWO, "found nothing")),
    ("E shard cut", lambda case, index: case.path(TWO).write_bytes(case.path(TWO).read_bytes()[:-9]), (TWO, "bytes of tensors")),
    ("E shard empty", lambda case, index: case.path(TWO).write_bytes(b""), (TWO, "found 0")),
    ("E shard is a git-lfs pointer", lambda case, index: case.path(TWO).write_text("version https://git-lfs.github.com/spec/v1\n"), (TWO, "git lfs pull")),
    ("E leads to the parent", sends("../outside.safetensors"), (INDEX, "../outside.safetensors", "same folder")),
    ("E leads to an absolute path", sends("/tmp/outside.safetensors"), (INDEX, "/tmp/outside.safetensors")),
    ("E leads to /etc/passwd", sends("/etc/passwd"), (INDEX, "/etc/passwd")),
    ("E leads to a folder below", sends("sub/x.safetensors"), (INDEX, "sub/x.safetensors")),
    ("E leads up and back", sends("sub/../" + ONE), (INDEX, "sub/../")),
    ("E leads to a Windows path", sends("C:\\x.safetensors"), (INDEX, "C:")),
    ("E leads to a URL", sends("https://evil.example/x.safetensors"), (INDEX, "https://evil")),
    ("E name with NUL", sends("x\0.safetensors"), (INDEX, r"x\x00")),
    ("E name with a newline", sends("x\n.safetensors"), (INDEX, r"x\n")),
    ("E name of dots", sends(".."), (INDEX, "..")),
    ("E name empty", sends(""), (INDEX, "same folder")),
    ("E name of 10^6 letters", sends("x" * 10**6 + ".safetensors"), (INDEX, "xxx...")),
    ("E value a number", sends(3), (INDEX, "found 3")),
    ("E value a list", sends([ONE]), (INDEX, ONE)),
    ("E value null", sends(None), (INDEX, "None")),
    ("E index names a pickle", _pickle, (INDEX, ".bin")),
    ("E index names itself", sends(INDEX), (INDEX, "same folder")),
    ("E tensor in two shards", _doubled, (TWO, "expected in one file", ONE)),
    ("E tensor absent", lambda case, index: index["weight_map"].update(ghost=ONE), (INDEX, "ghost", "found none")),
    ("E shards swapped", _swap, (INDEX, "found it in")),
    ("E tensor unlisted", lambda case, index: [index["weight_map"].pop(QUERY)], (INDEX, "listed")),
    ("E total_size 2^60", lambda case, index: index["metadata"].update(total_size=2**60), (INDEX, "total_size", str(2**60))),
    ("E total_size negative", lambda case, index: index["metadata"].update(total_size=-1), (INDEX, "total_size", "-1")),
    ("E total_size text", lambda case, index: index["metadata"].update(total_size="9"), (INDEX, "total_size")),
    ("E total_size NaN", lambda case, index: index["metadata"].update(total_size=float("nan")), (INDEX, "total_size", "nan")),
    ("E metadata a list", lambda case, index: index.update(metadata=[]), (INDEX, "metadata")),
    ("E index not JSON", replaces("{"), (INDEX, "JSON")),
    ("E index empty", replaces(""), (INDEX, "JSON")),
    ("E index a list", replaces("[]"), (INDEX, "object")),
    ("E index without a map", replaces("{}"), (INDEX, "weight_map")),
    ("E map empty", replaces({"weight_map": {}}), (INDEX, "weight_map")),
    ("E map a list", replaces({"weight_map": [ONE]}), (INDEX, "weight_map")),
    ("E map nested 10^5", replaces('{"weight_map":' + '{"a":' * 10**5 + "1" + "}" * 10**5 + "}"), (INDEX,)),
    ("E tensor listed twice", replaces(lambda old: json.dumps(old).replace('"weight_map": {', f'"weight_map": {{"{QUERY}": "{TWO}", ')), (INDEX, QUERY, "twice")),
    ("E index is an HTML page", replaces("<!DOCTYPE html>"), (INDEX, "HTML")),
    ("E names with escape codes", lambda case, index: index["weight_map"].update({"\x1b[2J": "\x1b[2J/x"}), (INDEX, r"\x1b[2J")),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), [row[1:] for row in SHARDS], ids=[row[0] for row in SHARDS])
def test_shards_refused(damage: Any, words: tuple[str, ...], case: Any, refused: Any) -> None:
    index = shard(case)
    instead = damage(case, index)
    write_index(case, instead if isinstance(instead, str | dict) else index)
    refused(*words)


def _plain(case: Any, index: dict[str, Any]) -> None:
    """Nothing is wrong."""


def _stranger(case: Any, index: dict[str, Any]) -> None:
    case.write_tensors({QUERY: torch.full((24, 24), 9.0)}, "model-00003-of-00003.safetensors")


def _hub_cache(case: Any, index: dict[str, Any]) -> None:
    """Names that are links to blobs elsewhere, as the hub's cache lays them out."""
    blobs = case.folder.parent / "blobs"
    blobs.mkdir()
    write_index(case, index)
    for number, name in enumerate((ONE, TWO, INDEX, "config.json")):
        case.path(name).replace(blobs / str(number))
        case.path(name).symlink_to(f"../blobs/{number}")


def _whole_file_too(case: Any, index: dict[str, Any]) -> None:
    from safetensors.torch import load_file

    case.write_tensors({**load_file(case.path(ONE)), **load_file(case.path(TWO))})
    case.path(TWO).unlink()


WELCOME: list[tuple[str, Callable[[Any, dict[str, Any]], Any]]] = [
    ("E shards that are right", _plain),
    ("E no metadata", lambda case, index: index.pop("metadata") and None),
    ("E a shard that no index names", _stranger),
    ("E a whole file beside stale shards", _whole_file_too),
    ("E I links as in the hub's cache", _hub_cache),
]


@pytest.mark.parametrize("damage", [row[1] for row in WELCOME], ids=[row[0] for row in WELCOME])
def test_shards_welcome(damage: Any, case: Any, harmless: Any) -> None:
    index = shard(case)
    damage(case, index)
    if not case.path(INDEX).exists():
        write_index(case, index)
    found = harmless(allowed=[case.folder.parent / "blobs"])
    assert not found.warnings
