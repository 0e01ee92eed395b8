"""Any damage to a header, an index, a config or a vocabulary: it opens, or CheckpointError says why; nothing else comes out."""

from __future__ import annotations

import json
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minitrans
from minitrans import AutoModel, AutoTokenizer, BertTokenizer, Encoder
from minitrans.checkpoints import inspect
from minitrans.errors import CheckpointError, NotSupportedError
from tests.embedding.conftest import sentence_folder

MANY = settings(
    max_examples=300, deadline=5000, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FEWER = settings(MANY, max_examples=60)
SIZES = {"vocab_size": 37, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20, "max_position_embeddings": 33}  # fmt: skip
OTHER_NAMES = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads", "intermediate_size": "hidden_dim"}  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=9),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, "../x", "/etc/passwd", "__class__", "F32", "I8", "model.safetensors", "\x1b[2J"]),
)  # fmt: skip
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)  # fmt: skip


@pytest.fixture(scope="module")
def folder(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One copy of the valid checkpoint for all examples; each puts back what it changed."""
    copy = tmp_path_factory.mktemp("mutated") / "folder"
    shutil.copytree(whole, copy)
    return copy


def opens(call: Callable[[], Any], *others: type[Exception]) -> None:
    """Success, or a CheckpointError (or one of the others) whose lines can be printed; in bounded time."""
    start = time.monotonic()
    try:
        call()
    except (CheckpointError, *others) as error:
        assert all(line.isprintable() and len(line) < 900 for line in str(error).splitlines())
        assert len(str(error).splitlines()) <= 52
    assert time.monotonic() - start < 5.0


class Changed:
    """A file with other content for the length of a `with`."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content

    def __enter__(self) -> None:
        self.before = self.path.read_bytes()
        self.path.write_bytes(self.content)

    def __exit__(self, *_: object) -> None:
        self.path.write_bytes(self.before)


def mutated(data: st.DataObject, document: Any) -> Any:
    """The document with one to three places changed, taken away or doubled."""
    for _ in range(data.draw(st.integers(1, 3))):
        node = document
        for _ in range(data.draw(st.integers(0, 3))):
            inner = node.values() if isinstance(node, dict) else node
            below = [child for child in inner if isinstance(child, dict | list) and child]
            if not below:
                break
            node = data.draw(st.sampled_from(below))
        if isinstance(node, dict):
            keys = st.sampled_from(sorted(node)) if node else st.text(max_size=9)
            key = data.draw(keys | st.text(max_size=9))
            if data.draw(st.booleans()) and key in node:
                node[data.draw(st.text(max_size=9))] = node.pop(key)
            else:
                node[key] = data.draw(ANYTHING)
        elif node:
            node[data.draw(st.integers(0, len(node) - 1))] = data.draw(ANYTHING)
    return document


def encoded(data: st.DataObject, document: Any) -> bytes:
    text = json.dumps(document, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass")
    if data.draw(st.integers(0, 5)) == 0:
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.binary(max_size=8)) + text[at + data.draw(st.integers(0, 8)) :]
    return text


@MANY
@given(st.data())
def test_B_C_headers(folder: Path, data: st.DataObject) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    end = 8 + struct.unpack("<Q", raw[:8])[0]
    header = encoded(data, mutated(data, json.loads(raw[8:end])))
    with Changed(path, struct.pack("<Q", len(header)) + header + raw[end:]):
        opens(lambda: AutoModel.from_pretrained(folder))
        opens(lambda: inspect(folder))


@MANY
@given(st.integers(0, 4000), st.binary(max_size=40), st.integers(0, 40))
def test_A_B_bytes(folder: Path, at: int, noise: bytes, gone: int) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    with Changed(path, raw[:at] + noise + raw[at + gone :]):
        opens(lambda: AutoModel.from_pretrained(folder))


@MANY
@given(st.data())
def test_G_config(folder: Path, data: st.DataObject) -> None:
    path = folder / "config.json"
    content = encoded(data, mutated(data, json.loads(path.read_bytes())))
    with Changed(path, content):
        opens(lambda: AutoModel.from_pretrained(folder))
        opens(lambda: AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="module", params=["Roberta", "DistilBert", "Albert", "MPNet", "Electra", "RobertaPreLayerNorm"])
def relative(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid checkpoint of another family."""
    place = tmp_path_factory.mktemp(request.param)
    sizes = (
        {OTHER_NAMES.get(name, name): size for name, size in SIZES.items()} if request.param == "DistilBert" else SIZES
    )
    config = getattr(minitrans, f"{request.param}Config")(**sizes)
    getattr(minitrans, f"{request.param}Model")(config).save_pretrained(place)
    return place


@FEWER
@given(st.data())
def test_G_config_of_other_families(relative: Path, data: st.DataObject) -> None:
    path = relative / "config.json"
    with Changed(path, encoded(data, mutated(data, json.loads(path.read_bytes())))):
        opens(lambda: AutoModel.from_pretrained(relative))


@pytest.fixture(scope="module")
def sentences(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid folder of sentence-transformers."""
    place = tmp_path_factory.mktemp("sentences") / "folder"
    return sentence_folder(whole, place, head=("Dense", "Normalize"), prompts={"prompts": {"q": "the "}})


@FEWER
@pytest.mark.parametrize("name", ["modules.json", "1_Pooling/config.json", "2_Dense/config.json", "sentence_bert_config.json", "config_sentence_transformers.json"])  # fmt: skip
@given(data=st.data())
def test_recipes(name: str, sentences: Path, data: st.DataObject) -> None:
    path = sentences / name
    with Changed(path, encoded(data, mutated(data, json.loads(path.read_bytes())))):
        opens(lambda: Encoder(sentences).encode(["the un a"]), NotSupportedError)


@MANY
@given(st.data())
def test_E_indexes(folder: Path, data: st.DataObject) -> None:
    from safetensors.torch import load_file

    shard, index = folder / "model-00001-of-00001.safetensors", folder / "model.safetensors.index.json"
    whole = folder / "model.safetensors"
    whole.rename(shard)
    try:
        keys = list(load_file(shard))
        document = {"metadata": {"total_size": 9}, "weight_map": dict.fromkeys(keys, shard.name)}
        index.write_bytes(encoded(data, mutated(data, document)))
        opens(lambda: AutoModel.from_pretrained(folder))
    finally:
        shard.rename(whole)
        index.unlink(missing_ok=True)


@MANY
@given(st.integers(0, 2**16), st.binary(max_size=30), st.integers(0, 200))
def test_F_pickles(folder: Path, at: int, noise: bytes, gone: int) -> None:
    whole, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    from safetensors.torch import load_file

    torch.save(load_file(whole), pickled)
    raw = pickled.read_bytes()
    at %= len(raw)
    pickled.write_bytes(raw[:at] + noise + raw[at + gone :])
    hidden = folder.parent / "hidden"
    whole.rename(hidden)
    try:
        opens(lambda: AutoModel.from_pretrained(folder))
    finally:
        hidden.rename(whole)
        pickled.unlink()


@MANY
@given(st.data())
def test_H_vocabularies(folder: Path, data: st.DataObject) -> None:
    path = folder / "vocab.txt"
    raw = path.read_bytes()
    at = data.draw(st.integers(0, len(raw)))
    noise = data.draw(st.binary(max_size=20) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace")))
    with Changed(path, raw[:at] + noise + raw[at + data.draw(st.integers(0, 20)) :]):
        opens(lambda: BertTokenizer.from_pretrained(folder)("the un a"))


@MANY
@given(st.data())
def test_H_tokenizer_json(folder: Path, data: st.DataObject) -> None:
    BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    path = folder / "tokenizer.json"
    try:
        path.write_bytes(encoded(data, mutated(data, json.loads(path.read_bytes()))))
        opens(lambda: AutoTokenizer.from_pretrained(folder)("the un a"))
    finally:
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            (folder / name).unlink(missing_ok=True)
