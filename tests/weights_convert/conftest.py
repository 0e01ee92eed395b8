"""Tiny random checkpoints of the reference, and ways to rewrite them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import NEEDED

transformers = pytest.importorskip("transformers")
transformers.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()
torch.set_num_threads(1)

SIZES: dict[str, Any] = {
    "vocab_size": 37,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 33,
    "num_key_value_heads": 1,
    "head_dim": 6,
}


class Checkpoint:
    """A folder that holds config.json and model.safetensors, and their contents, to be changed and written again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.tensors: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")

    def rename(self, change: Callable[[str], str]) -> Checkpoint:
        self.tensors = {change(key): tensor for key, tensor in self.tensors.items()}
        return self.write()

    def write(self) -> Checkpoint:
        (self.folder / "config.json").write_text(json.dumps(self.config))
        save_file({k: t.clone().contiguous() for k, t in self.tensors.items()}, self.folder / "model.safetensors")
        return self

    def write_bin(self, **options: Any) -> Checkpoint:
        self.write()
        (self.folder / "model.safetensors").unlink()
        torch.save(self.tensors, self.folder / "pytorch_model.bin", **options)
        return self


def scramble(model: torch.nn.Module, seed: int = 0) -> None:
    """Random values everywhere: fresh models have zero biases and unit norms, which would hide a mix-up."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


@pytest.fixture
def reference(tmp_path: Path) -> Callable[..., Checkpoint]:
    """reference("BertForMaskedLM", num_labels=3, ...): a saved random checkpoint of the reference's class."""

    def make(class_name: str, folder: str = "reference", **changes: Any) -> Checkpoint:
        cls = getattr(transformers, class_name)
        sizes = {**SIZES, "type_vocab_size": 2}
        known = cls.config_class()
        options = {name: size for name, size in sizes.items() if hasattr(known, name)}
        options |= NEEDED.get(cls.config_class.model_type, {}) | changes
        if ("CausalLM" in class_name or "LMHead" in class_name) and hasattr(known, "is_decoder"):
            options.setdefault("is_decoder", True)
        model = cls(cls.config_class(**options))
        scramble(model)
        model.save_pretrained(tmp_path / folder)
        return Checkpoint(tmp_path / folder)

    return make
