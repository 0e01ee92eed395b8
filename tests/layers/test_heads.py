"""Pooler, language-modelling head and two-layer classifier against their formulas (B2, B3, R5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitrans.layers.heads import ClassificationHead, LanguageModelHead
from minitrans.models.backbone import Pooler

Error = Callable[[Tensor, Tensor], float]
Randomized = Callable[[nn.Module], nn.Module]

# pairwise different: B=2, T=3, D=7, V=11, C=5


def test_pooler_reads_the_first_token(randomized: Randomized, error: Error) -> None:
    pooler, hidden = randomized(Pooler(7)), torch.randn(2, 3, 7, dtype=torch.float64)
    weight, bias = pooler.parameters()
    assert error(pooler(hidden), (hidden[:, 0] @ weight.T + bias).tanh()) <= 1e-14


def test_language_model_head(randomized: Randomized, error: Error) -> None:
    head, x = randomized(LanguageModelHead(7, 11, act="silu", eps=0.1)), torch.randn(2, 3, 7, dtype=torch.float64)
    p = dict(head.named_parameters())
    hidden = F.silu(x @ p["dense.weight"].T + p["dense.bias"])
    hidden = F.layer_norm(hidden, (7,), p["LayerNorm.weight"], p["LayerNorm.bias"], 0.1)
    assert error(head(x), hidden @ p["decoder.weight"].T + p["decoder.bias"]) <= 1e-13
    assert torch.equal(head(x[0, 0]), head(x)[0, 0]) or error(head(x[0, 0]), head(x)[0, 0]) <= 1e-14


def test_classification_head(randomized: Randomized, error: Error) -> None:
    head, x = randomized(ClassificationHead(7, 5, dropout=0.5)), torch.randn(2, 3, 7, dtype=torch.float64)
    p = dict(head.named_parameters())
    expected = (x[:, 0] @ p["dense.weight"].T + p["dense.bias"]).tanh() @ p["out_proj.weight"].T + p["out_proj.bias"]
    assert error(head.eval()(x), expected) <= 1e-13


def test_classification_head_drops_before_both_layers(randomized: Randomized) -> None:
    head = randomized(ClassificationHead(7, 5, dropout=0.5))
    assert isinstance(head, ClassificationHead)
    seen: list[Tensor] = []
    for layer in (head.dense, head.out_proj):
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    head(torch.randn(40, 3, 7, dtype=torch.float64))
    assert all(0.3 < (inputs == 0).double().mean() < 0.7 for inputs in seen)
    assert len(seen) == 2


def test_parameter_names_are_public() -> None:
    pairs = [
        (Pooler(7), ["dense"]),
        (LanguageModelHead(7, 11, act="gelu", eps=1e-5), ["dense", "LayerNorm", "decoder"]),
        (ClassificationHead(7, 5, dropout=0.0), ["dense", "out_proj"]),
    ]
    for head, layers in pairs:
        assert list(head.state_dict()) == [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
