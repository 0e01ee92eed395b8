"""captum: attributions to embeddings and to blocks, which return more than a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

captum = pytest.importorskip("captum.attr")

Both = Callable[..., tuple[Any, Any]]


@pytest.fixture
def models(both: Both) -> tuple[Any, Any]:
    ours, theirs = both("ForSequenceClassification", num_labels=3)
    return ours.double(), theirs.double()


def forward(model: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda ids, mask: model(input_ids=ids, attention_mask=mask).logits


def attribute(kind: str, model: Any, layer: Any, batch: dict[str, Tensor], **options: Any) -> Tensor:
    ids, mask = batch["input_ids"][:3], batch["attention_mask"][:3]
    method = getattr(captum, kind)(forward(model), layer)
    if kind == "LayerActivation":
        got = method.attribute(ids, additional_forward_args=(mask,))
    else:
        # the baselines are whole texts of padding between [CLS] and [SEP]
        bare = torch.where((ids == 2) | (ids == 3), ids, 0)
        options = {"baselines": bare, "n_steps": 8, **options}
        got = method.attribute(ids, target=1, additional_forward_args=(mask,), **options)
    return got[0] if isinstance(got, tuple) else got


@pytest.mark.parametrize("layer", ["bert.embeddings", "bert.embeddings.word_embeddings"])
def test_integrated_gradients_of_embeddings(models: tuple[Any, Any], batch: Any, layer: str) -> None:
    got, expected = (
        attribute("LayerIntegratedGradients", model, model.get_submodule(layer), batch) for model in models
    )
    assert got.abs().max() > 1e-3
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("layer", ["bert.encoder.layer.0", "bert.encoder.layer.1"])
def test_activations_of_blocks(models: tuple[Any, Any], batch: Any, layer: str) -> None:
    got, expected = (attribute("LayerActivation", model, model.get_submodule(layer), batch) for model in models)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["LayerConductance", "LayerIntegratedGradients"])
@pytest.mark.parametrize("block", [0, 1])
def test_attributions_to_blocks(models: tuple[Any, Any], batch: Any, method: str, block: int) -> None:
    """Of ids captum cannot take the steps of a path: they are taken in the embeddings."""
    ours, theirs = models

    def on_vectors(model: Any) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda vectors, mask: model(inputs_embeds=vectors, attention_mask=mask).logits

    results = []
    for model in (ours, theirs):
        vectors = model.get_input_embeddings()(batch["input_ids"][:3]).detach()
        layer = model.get_submodule(f"bert.encoder.layer.{block}")
        steps = {"baselines": torch.zeros_like(vectors), "target": 1, "n_steps": 6}
        mask = batch["attention_mask"][:3]
        got = getattr(captum, method)(on_vectors(model), layer).attribute(
            vectors, additional_forward_args=(mask,), **steps
        )
        results.append(got[0] if isinstance(got, tuple) else got)
    assert results[0].abs().max() > 1e-3
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-9)
