"""A fused model with its kernels interpreted: the numbers and gradients of the plain model, and its dropout."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from minitrans import BertConfig, BertForMaskedLM, RobertaPreLayerNormConfig, RobertaPreLayerNormForMaskedLM, fuse

SIZES: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
    "initializer_range": 0.3, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
FAMILIES = {
    "bert": (BertForMaskedLM, BertConfig),
    "norms first": (RobertaPreLayerNormForMaskedLM, RobertaPreLayerNormConfig),
}


def batch() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    mask = (torch.arange(9) < torch.tensor([9, 4, 7])[:, None]).long()
    ids = torch.randint(3, 61, mask.shape, generator=draw) * mask + (1 - mask)
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.where((ids % 3 == 0) & (mask > 0), ids, -100)}


@pytest.mark.parametrize("padding", ["keep", "remove"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_numbers(name: str, padding: str) -> None:
    torch.manual_seed(0)
    kind, config = FAMILIES[name]
    plain = kind(config(**SIZES, hidden_dropout_prob=0.0)).train()
    fused, exact = fuse(copy.deepcopy(plain)), copy.deepcopy(plain).double()
    given = batch() | {"padding": padding}
    found, wanted, truth = (model(**given).loss for model in (fused, plain, exact))
    for loss in (found, wanted, truth):
        loss.backward()
    assert abs(found.item() - truth.item()) <= 2 * abs(wanted.item() - truth.item()) + 1e-6 * abs(truth.item())
    for ours, theirs, right in zip(fused.parameters(), plain.parameters(), exact.parameters(), strict=True):
        error, least = ((p.grad - right.grad).abs().max() for p in (ours, theirs))
        assert error <= 3 * least + 1e-6 * right.grad.abs().max()
    with pytest.raises(TypeError, match="which the Triton kernels do not compute"):  # so it was they that ran
        fuse(exact)(**given)


def test_dropout_follows_the_generator_of_torch() -> None:
    torch.manual_seed(0)
    model = fuse(BertForMaskedLM(BertConfig(**SIZES, hidden_dropout_prob=0.2))).train()
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        losses.append(model(**batch()).loss.item())
    assert losses[0] == losses[1] != losses[2]
