"""A tiny model of every family in float64, and a batch with padding for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import minitrans
from minitrans.families import families_with
from minitrans.models.auto import model_class
from tests.models.conftest import PREFIXES, PUBLISHED, own_fields
from tests.models.test_pairs import FIELDS as PAIRS

V = 37
SIZES = {
    "vocab_size": V, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 19,
    "max_position_embeddings": 24, "type_vocab_size": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
FAMILIES = families_with("Model")


def tiny(family: str) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    torch.manual_seed(7)
    pair = family in PAIRS
    prefix = model_class("AutoModel", family).__name__.removesuffix("Model") if pair else PREFIXES[family]
    fields: dict[str, Any] = PAIRS[family][0] if pair else own_fields(family, {**PUBLISHED.get(family, {}), **SIZES})
    model = getattr(minitrans, f"{prefix}Model")(getattr(minitrans, f"{prefix}Config")(**fields)).double().eval()
    ids = torch.randint(8, V, (2, 8))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    batch = {"input_ids": ids} if family in ("fnet", "nystromformer") else {"input_ids": ids, "attention_mask": mask}
    return model, {**batch, **({"decoder_input_ids": torch.randint(8, V, (2, 6))} if pair else {})}


@pytest.fixture(params=FAMILIES)
def case(request: pytest.FixtureRequest) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    return tiny(request.param)
