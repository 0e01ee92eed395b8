"""The tiny checkpoints of the command line's tests, and folders of sentence-transformers made of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.cli.conftest import body, run, tiny  # noqa: F401 (fixtures)

PLACE = "sentence_transformers.models."


def sentence_folder(
    source: str | Path,
    target: Path,
    pooling: dict[str, Any] | None = None,
    *,
    head: tuple[str, ...] = (),
    length: dict[str, Any] | None = None,
    dense: tuple[int, int] = (24, 7),
    prompts: dict[str, Any] | None = None,
) -> Path:
    """A copy of a checkpoint with modules.json and all that belongs to it; `head` out of "Dense" and "Normalize"."""
    shutil.copytree(source, target)
    names = ["Transformer", "Pooling", *head]
    paths = ["", *(f"{index}_{name}" for index, name in enumerate(names) if index)]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": PLACE + name}
        for index, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    (target / "modules.json").write_text(json.dumps(modules))
    (target / "1_Pooling").mkdir()
    config = {"word_embedding_dimension": 24, **(pooling or {"pooling_mode_mean_tokens": True})}
    (target / "1_Pooling" / "config.json").write_text(json.dumps(config))
    (target / "sentence_bert_config.json").write_text(json.dumps(length or {"max_seq_length": 16}))
    (target / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {}, **(prompts or {})}))
    for path, name in zip(paths, names, strict=True):
        if name == "Dense":
            write_dense(target / path, *dense)
    return target


def write_dense(folder: Path, width: int, out: int, **changes: Any) -> None:
    folder.mkdir(exist_ok=True)
    activation = "torch.nn.modules.activation.Tanh"
    config = {"in_features": width, "out_features": out, "bias": True, "activation_function": activation, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(1)
    tensors = {"linear.weight": torch.randn(out, width, generator=generator) / 5}
    if config["bias"]:
        tensors["linear.bias"] = torch.randn(out, generator=generator)
    save_file(tensors, folder / "model.safetensors")


TEXTS = [
    "the cat sat on the mat .",
    "paris",
    "the night train was late , the old city is in france .",
    "snow",
    "",
    "who was born in london ? ada lovelace",
    "a good film " * 12,
]
