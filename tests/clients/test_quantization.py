"""int8 by torch's own dynamic quantisation and by torchao: as they do it to the reference's model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import minitrans

transformers = pytest.importorskip("transformers")

FAMILIES = ["Bert", "DistilBert", "Albert", "MPNet", "RobertaPreLayerNorm"]


def check(tiny: Callable[..., str], family: str, batch: Any, quantize: Callable[[nn.Module], nn.Module]) -> None:
    """Both are quantised, in the same places: ours is as near to the exact numbers. (A last bit of float32 may flip an int8.)"""
    folder = tiny(f"{family}Model")
    given = {key: value for key, value in batch.items() if key != "token_type_ids"}
    errors = []
    for library in (minitrans, transformers):
        model = getattr(library, f"{family}Model").from_pretrained(folder)
        with torch.no_grad():
            exact, rounded = (net(**given).last_hidden_state for net in (model, quantize(copy.deepcopy(model))))
        errors.append(float((rounded - exact)[given["attention_mask"].bool()].square().mean().sqrt()))
    assert 0 < errors[0] <= 1.2 * errors[1] < 0.5  # hidden states are of size 1


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor.* are deprecated:UserWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_dynamic_int8_by_torch(tiny: Callable[..., str], batch: Any, family: str) -> None:
    check(tiny, family, batch, lambda net: torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8))


@pytest.mark.parametrize("kind", ["Int8DynamicActivationInt8WeightConfig", "Int8WeightOnlyConfig"])
@pytest.mark.parametrize("family", FAMILIES)
def test_int8_by_torchao(tiny: Callable[..., str], batch: Any, family: str, kind: str) -> None:
    torchao = pytest.importorskip("torchao.quantization")

    def quantize(net: nn.Module) -> nn.Module:
        torchao.quantize_(net, getattr(torchao, kind)())
        return net

    check(tiny, family, batch, quantize)
