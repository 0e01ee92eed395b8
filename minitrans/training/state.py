"""What a training is at a step: tensors and a few numbers, and what it must have been begun with to go on from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minitrans.errors import CheckpointError
from minitrans.training.ema import Ema
from minitrans.training.settings import FREE, TrainingSettings

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def tensors_of(learner: nn.Module, optimizer: Optimizer, ema: Ema) -> dict[str, Tensor]:
    """All tensors of a training by names of their own; ties stand once, shards are shards."""
    found: dict[str, Tensor] = {f"weights.{name}": weight.detach() for name, weight in learner.named_parameters()}
    kept = learner.state_dict().keys()
    found |= {f"buffers.{name}": buffer for name, buffer in learner.named_buffers() if name in kept}
    for name, weight in learner.named_parameters():
        found |= {f"{moment}.{name}": value for moment, value in optimizer.state.get(weight, {}).items()}
    return found | {f"average.{name}": average for name, average in ema.averages.items()}


def make_moments(learner: nn.Module, optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Room for the moments of those parameters that had some when they were saved."""
    for name, weight in learner.named_parameters():
        if f"exp_avg.{name}" in saved:
            optimizer.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32),
                **{moment: torch.zeros_like(weight, requires_grad=False) for moment in MOMENTS[:2]},
            }


def identity_of(
    settings: TrainingSettings, model: nn.Module, source: Any, besides: Mapping[str, str]
) -> dict[str, Any]:
    """What must be the same when a training goes on, by names that a message can use.

    Args:
        settings: all fields but those that change no number.
        model: its class, and the fields of its configuration.
        source: its `fingerprint`.
        besides: hashes of what else is to be the same, as {"vocabulary": ...}.
    """
    config: Any = getattr(model, "config", None)
    fields = config.to_dict() if hasattr(config, "to_dict") else {}
    told = {name: value for name, value in asdict(settings).items() if name not in FREE}
    given = {f"model.{name}": value for name, value in fields.items() if name != "_name_or_path"}
    found = {**told, "model": type(model).__name__, **given, "data": source.fingerprint, **besides}
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def require_same(place: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises CheckpointError, naming the key, where a training is not the one that was saved."""
    for name in sorted({*saved, *now}):
        before, after = (json.dumps(each[name]) if name in each else "nothing" for each in (saved, now))
        if before != after:
            raise CheckpointError(
                f"{place}: {name}: the checkpoint was made with {before}, this training has {after}; go on with the same, "
                "or begin anew in another folder"
            )


def digest(value: Any) -> int:
    """63 bits of a hash of what JSON can hold."""
    return int.from_bytes(hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()[:8], "big") >> 1
