"""A whole BERT on the backend `triton` (here its PyTorch path): padded as on `eager`, and packed as padded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import minitrans_kernels
import pytest
import torch

from minitrans import BertConfig, BertModel

CONFIG = BertConfig(
    vocab_size=37, hidden_size=32, num_attention_heads=2, num_hidden_layers=2, intermediate_size=40,
    max_position_embeddings=20, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
LENGTHS = (7, 1, 12, 4)


@pytest.fixture
def model() -> BertModel:
    torch.manual_seed(0)
    return BertModel(CONFIG, add_pooling_layer=False).double()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
    return {"input_ids": torch.randint(4, 37, mask.shape).masked_fill(mask == 0, 0), "attention_mask": mask}


def on(model: BertModel, backend: str) -> BertModel:
    for layer in model.encoder.layer:
        layer.attention.set_attention("full", backend)
    return model


def step(model: BertModel, batch: dict[str, torch.Tensor], padding: str) -> list[torch.Tensor]:
    """The hidden states of real tokens, and every gradient."""
    model.zero_grad()
    real = batch["attention_mask"].bool()
    hidden = model(**batch, padding=padding).last_hidden_state[real]
    hidden.square().sum().backward()
    return [hidden.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("padding", ["keep", "remove"])
def test_as_on_eager(model: BertModel, batch: dict[str, torch.Tensor], padding: str):
    expected = step(on(model, "eager"), batch, "keep")
    found = step(on(model, "triton"), batch, padding)
    assert len(found) == len(expected) > 20
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_without_padding_the_packed_kernel_runs(
    model: BertModel, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
):
    called: list[tuple[str, tuple[int, ...]]] = []

    def spied(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def spy(q: torch.Tensor, *rest: Any, **options: Any) -> Any:
            called.append((name, tuple(q.shape)))
            return original(q, *rest, **options)

        return spy

    for name in ("attention", "attention_varlen"):
        monkeypatch.setattr(minitrans_kernels, name, spied(name, getattr(minitrans_kernels, name)))
    on(model, "triton")(**batch, padding="remove")
    assert called == [("attention_varlen", (sum(LENGTHS), 2, 16))] * 2
    called.clear()
    model(**batch, padding="keep")
    assert called == [("attention", (4, 2, 12, 16))] * 2


def test_dropout_drops_the_same_padded_and_packed(model: BertModel, batch: dict[str, torch.Tensor]):
    on(model, "triton").train()
    for layer in model.encoder.layer:
        layer.attention.dropout_p = 0.3
    torch.manual_seed(1)
    padded = step(model, batch, "keep")
    torch.manual_seed(1)
    for ours, theirs in zip(step(model, batch, "remove"), padded, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    model.eval()
    assert not torch.allclose(step(model, batch, "keep")[0], padded[0])
