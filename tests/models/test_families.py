"""What only one family has, and what they all must: the heads of the reference, rules that parity alone does not show."""

from __future__ import annotations

import re

import pytest
import torch
import transformers

import minitrans
from minitrans.models.auto import FAMILIES, class_names


@pytest.mark.parametrize("family", FAMILIES)
def test_every_head_of_the_reference_is_there(family: str):
    prefix = FAMILIES[family][1]
    theirs = {
        name
        for name in dir(transformers)
        if re.fullmatch(prefix + r"(Model|LMHeadModel|For[A-Za-z]+)", name) and not name.endswith("Output")
    }
    assert theirs == {name for name in class_names() if name.startswith(prefix) and not name.endswith("Config")}


def test_D3_sinusoids_are_the_beginning_of_a_trained_table():
    """They are stored and trained as any table; the reference makes the same ones."""
    fields = {"vocab_size": 11, "dim": 7, "n_heads": 1, "n_layers": 1, "hidden_dim": 5, "max_position_embeddings": 13}
    ours = minitrans.DistilBertModel(minitrans.DistilBertConfig(**fields, sinusoidal_pos_embds=True))
    theirs = transformers.DistilBertModel(transformers.DistilBertConfig(**fields, sinusoidal_pos_embds=True))
    table = ours.embeddings.position_embeddings.weight
    torch.testing.assert_close(table, theirs.embeddings.position_embeddings.weight, rtol=0, atol=1e-7)
    assert table.requires_grad
    plain = minitrans.DistilBertModel(minitrans.DistilBertConfig(**fields))
    assert plain.embeddings.position_embeddings.weight.abs().max() < 0.5


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dim", 0, "dim must be at least 1, got 0"),
        ("dim", 13, "dim must be a multiple of n_heads=12, got 13"),
        ("n_layers", 0, "n_layers must be at least 1"),
        ("qa_dropout", 1.5, "qa_dropout must be in"),
        ("activation", "gleu", "unknown activation 'gleu'"),
    ],
)
def test_distilbert_s_fields_are_named_as_its_own(field: str, value: object, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        minitrans.DistilBertConfig(**{field: value})
    with pytest.raises(TypeError, match="hidden_size"):
        minitrans.DistilBertConfig(hidden_size=12)


def test_a_family_without_token_types_looks_at_none():
    """As the reference does: tokenizers of other families give them."""
    config = minitrans.DistilBertConfig(vocab_size=11, dim=6, n_heads=2, n_layers=1, hidden_dim=5)
    model = minitrans.DistilBertModel(config).eval()
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(model(ids, token_type_ids=torch.tensor([[0, 1, 7]]))[0], model(ids)[0])
    with pytest.raises(ValueError, match="token_type_ids must be"):
        model(ids, token_type_ids=torch.tensor([[0, 1]]))
