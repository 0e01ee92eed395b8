"""A checkpoint small enough that a benchmark of it takes seconds, and a way to run one and read its JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from minitrans import BertConfig, BertModel
from minitrans.cli import errors

WORDS = """the a of in was who where cat dog city film good bad night train late snow water music old new small river house
people time year work day world life hand part place case week company system program question government number"""
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
Command = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of BERT with random weights and a vocabulary."""
    folder = tmp_path_factory.mktemp("tiny") / "bert"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertModel(BertConfig(
            vocab_size=len(VOCABULARY), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
            max_position_embeddings=300,
        ))  # fmt: skip
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape) if "LayerNorm" not in name else 0.0)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """command(module, "--repeats", 1): runs a benchmark with --json and returns what it wrote, checked for what all hold."""
    threads = torch.get_num_threads()

    def run(module: Any, *arguments: object) -> dict[str, Any]:
        results = tmp_path / "results"
        results.mkdir()
        code = errors.run(module.app, "benchmark", [*map(str, arguments), "--json", "--results", str(results)])
        assert code == 0
        (path,) = results.glob("*.json")
        found: dict[str, Any] = json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity
        assert found["benchmark"] == module.__name__.removeprefix("benchmarks.")
        assert path.name.startswith(found["benchmark"].replace("_", "-"))
        assert found["date"][:10] in path.name
        assert {"device", "threads", "versions", "commit", "dirty"} <= found.keys()
        assert {"python", "minitrans", "torch"} <= found["versions"].keys()
        return found

    yield run
    torch.set_num_threads(threads)
