"""Tiny checkpoints of our own classes, and a way to run the command line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import minitrans
from minitrans.cli.app import main
from tests.weights_convert.conftest import reference  # noqa: F401 (a fixture)

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[2]

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PLAIN = """the a of in is was born who where ada lovelace paris london france cat dog sat on mat and old city film good bad
, . ? ' ##s ##ing walk night train late snow"""
WORDS = [*SPECIALS, *PLAIN.split()]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    def refused(self, *parts: str) -> None:
        """A user's mistake: exit code 2, nothing on stdout, one line on stderr that holds these parts."""
        assert self.code == 2, self
        assert self.out == "", self
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("minitrans: "), self.err
        assert "Traceback" not in self.err
        for part in parts:
            assert part in self.err, self.err


Run = Callable[..., Result]
Tiny = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """run("similar", "query", file, stdin=b"..."): the command line in this process."""

    def call(*arguments: object, stdin: bytes | None = None) -> Result:
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


def process(*arguments: object, **options: Any) -> Result:
    """The command line in a process of its own."""
    options["env"] = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    done = subprocess.run(
        [sys.executable, "-m", "minitrans", *map(str, arguments)],
        cwd=ROOT, capture_output=True, timeout=120, check=False, **options,
    )  # fmt: skip
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """tiny("BertForMaskedLM", num_labels=3): a folder with random weights, the same for the same arguments, and a vocabulary."""
    root = tmp_path_factory.mktemp("checkpoints")

    def make(class_name: str, name: str | None = None, **changes: Any) -> str:
        folder = root / (name or class_name)
        if not folder.exists():
            sizes: dict[str, Any] = {
                "vocab_size": len(WORDS), "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
                "intermediate_size": 20, "max_position_embeddings": 32,
            }  # fmt: skip
            cls = getattr(minitrans, class_name)
            known = {field: value for field, value in sizes.items() if field not in cls.config_class.lacking}
            own = {cls.config_class.own_names.get(field, field): value for field, value in {**known, **changes}.items()}
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = cls(cls.config_class(**own))
                with torch.no_grad():
                    for parameter_name, parameter in model.named_parameters():
                        norm_weight = "LayerNorm.weight" in parameter_name
                        noise = torch.randn(parameter.shape) * (0.1 if parameter.dim() == 1 else 0.5)
                        parameter.copy_(noise + 1 if norm_weight else noise)
            model.save_pretrained(folder)
            (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
        return str(folder)

    return make


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """byte_level("RobertaForMaskedLM"): a tiny RoBERTa, its vocabulary learnt from a few words."""
    from tokenizers import ByteLevelBPETokenizer

    root = tmp_path_factory.mktemp("byte-level")
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator([f"{PLAIN} Ada Lovelace's naïve London."] * 3, 400, 2, False, specials)

    def make(class_name: str, **changes: object) -> str:
        folder = root / "-".join(map(str, [class_name, *changes]))
        if not folder.exists():
            cls = getattr(minitrans, class_name)
            with torch.random.fork_rng():
                torch.manual_seed(1)
                model = cls(
                    cls.config_class(
                        vocab_size=backend.get_vocab_size(), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=20, max_position_embeddings=36, initializer_range=0.5, pad_token_id=1, **changes,
                    )
                )  # fmt: skip
            model.save_pretrained(folder)
            backend.save_model(str(folder))
        return str(folder)

    return make


@pytest.fixture(scope="session")
def body(tiny: Tiny) -> str:
    return tiny("BertModel")


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    path = tmp_path / "sentences.txt"
    lines = ["the cat sat on the mat .", "paris", "", "the night train was late , the old city is in france .", "snow"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
