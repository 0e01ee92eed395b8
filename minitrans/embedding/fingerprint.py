"""What the numbers of an encoder depend on, as hashes: whether two runs may share their results."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from minitrans.embedding.encoder import Encoder


def fingerprint(encoder: Encoder) -> dict[str, str]:
    """SHA-256 of the configuration, the weights, the tokenizer and the recipe with its layers."""
    tokenizer = encoder.tokenizer
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    del pipeline["truncation"], pipeline["padding"]  # the last call's
    return {
        "config": _hash_json(encoder.model.config.to_dict()),
        "weights": _hash_weights(encoder.model),
        "tokenizer": _hash_json([pipeline, tokenizer.model_input_names, tokenizer.truncation_side, encoder.max_length]),
        "recipe": _hash_json([asdict(encoder.recipe), _hash_weights(encoder.head)]),
    }


def _hash_json(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()


def _hash_weights(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous().flatten()
        digest.update(memoryview(values.view(torch.uint8).numpy()) if values.numel() else b"")
    return digest.hexdigest()
