"""What only one family has, and what they all must: the heads of the reference, rules that parity alone does not show."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import transformers

import minitrans
from minitrans.families import FAMILIES, class_names

SIZES = {"vocab_size": 11, "hidden_size": 6, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 5}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_head_of_the_reference_is_there(family: str):
    pattern = FAMILIES[family].prefix + r"(Model|LMHeadModel|For[A-Za-z]+)"
    theirs = {name for name in dir(transformers) if re.fullmatch(pattern, name) and not name.endswith("Output")}
    assert theirs == {name for name in class_names() if re.fullmatch(pattern, name)}


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


def test_E1_a_projection_only_where_the_widths_differ():
    same = minitrans.ElectraModel(minitrans.ElectraConfig(**SIZES, embedding_size=6))
    assert same.embeddings.projection is None
    narrow = minitrans.ElectraModel(minitrans.ElectraConfig(**SIZES, embedding_size=4))
    assert narrow.embeddings.projection.weight.shape == (6, 4)
    assert narrow.embeddings.LayerNorm.weight.shape == (4,)
    assert narrow.eval()(inputs_embeds=torch.zeros(1, 3, 4))[0].shape == (1, 3, 6)
    with pytest.raises(ValueError, match=r"inputs_embeds must be \(B, T, D=4\)"):
        narrow(inputs_embeds=torch.zeros(1, 3, 6))
    with pytest.raises(ValueError, match="summary_type must be one of first, last, mean"):
        minitrans.ElectraConfig(summary_type="attn")


def test_E1_only_real_tokens_are_discriminated():
    model = minitrans.ElectraForPreTraining(minitrans.ElectraConfig(**SIZES)).eval()
    ids, mask = torch.tensor([[3, 4, 5, 0]]), torch.tensor([[1, 1, 1, 0]])
    labels = torch.tensor([[0, 1, 0, 0]])
    loss = model(ids, mask, labels=labels).loss
    other = model(ids, mask, labels=torch.tensor([[0, 1, 0, 1]])).loss
    assert torch.equal(loss, other)
    model.set_padding("remove")
    torch.testing.assert_close(model(ids, mask, labels=labels).loss, loss)
    with pytest.raises(ValueError, match="labels must be 1 where a token was replaced and 0"):
        model(ids, mask, labels=labels - 100)
    with pytest.raises(ValueError, match=r"labels must have shape \(1, 4\), got \(1, 3\)"):
        model(ids, mask, labels=labels[:, :3])


@pytest.mark.parametrize(
    "changes",
    [{"summary_use_proj": False}, {"summary_activation": "", "summary_last_dropout": 0.0}, {"summary_type": "mean"}],
)
def test_the_summary_of_a_choice(pair, error, changes: dict):
    models = pair("electra", "ForMultipleChoice", **SIZES, **changes)
    ids = torch.tensor([[[3, 4], [5, 6]], [[7, 8], [9, 10]]])
    results = []
    for model in (models.ours, models.reference):
        torch.manual_seed(1)
        results.append(model(ids).logits)
    assert error(*results) <= 1e-10


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


def test_bert_s_names_are_read_where_a_family_has_others():
    assert minitrans.DistilBertConfig(hidden_size=24) == minitrans.DistilBertConfig(dim=24)


def test_a_family_without_token_types_looks_at_none():
    """As the reference does: tokenizers of other families give them."""
    config = minitrans.DistilBertConfig(vocab_size=11, dim=6, n_heads=2, n_layers=1, hidden_dim=5)
    model = minitrans.DistilBertModel(config).eval()
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(model(ids, token_type_ids=torch.tensor([[0, 1, 7]]))[0], model(ids)[0])
    with pytest.raises(ValueError, match="token_type_ids must be"):
        model(ids, token_type_ids=torch.tensor([[0, 1]]))


def test_P1_distances_fall_into_32_buckets_however_many_rows_the_table_has(pair, error):
    models = pair(
        "mpnet", "Model", **SIZES, relative_attention_num_buckets=40, max_position_embeddings=300, layer_norm_eps=1e-5
    )
    ids = torch.randint(2, 11, (1, 290), generator=torch.Generator().manual_seed(0))
    for model in (models.ours, models.reference):
        model.eval()
        model(ids)[0].square().sum().backward()
    assert error(models.ours(ids)[0], models.reference(ids)[0]) <= 1e-10
    table = models.ours.encoder.relative_attention_bias.weight
    assert error(table.grad, models.reference.encoder.relative_attention_bias.weight.grad) <= 1e-10
    assert (table.grad[32:] == 0).all()
    with pytest.raises(ValueError, match="relative_attention_num_buckets must be at least 32"):
        minitrans.MPNetConfig(relative_attention_num_buckets=16)


def test_P1_distances_and_scores_of_a_square_mask_add_up(pair, error):
    models = pair("mpnet", "Model", **SIZES, max_position_embeddings=9, layer_norm_eps=1e-5)
    ids = torch.tensor([[3, 4, 5, 6]])
    scores = torch.randn(1, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    got, expected = (model.eval()(ids, attention_mask=scores)[0] for model in (models.ours, models.reference))
    assert error(got, expected) <= 1e-10


def test_A1_a_block_is_one_parameter_however_often_it_runs():
    config = minitrans.AlbertConfig(**{**SIZES, "num_hidden_layers": 5}, num_hidden_groups=2, inner_group_num=2)
    model = minitrans.AlbertModel(config).eval()
    assert len(model.encoder.layer) == 4
    assert model.encoder.order == (0, 1, 0, 1, 0, 1, 2, 3, 2, 3)
    out = model(torch.tensor([[3, 4]]), output_hidden_states=True, output_attentions=True, head_mask=torch.ones(10, 2))
    assert len(out.hidden_states) == 11
    assert len(out.attentions) == 10
    with pytest.raises(ValueError, match="num_hidden_groups must be at most num_hidden_layers=2"):
        minitrans.AlbertConfig(**SIZES, num_hidden_groups=3)
    with pytest.raises(ValueError, match="pruned_heads must be empty"):
        model.prune_heads({0: [1]})
    with pytest.raises(ValueError, match="num_labels must be 2, got 3"):
        minitrans.AlbertForPreTraining(config.updated(num_labels=3))


# What the published files hold beside what the model needs.
PUBLISHED = {
    "distilbert": {
        "activation": "gelu", "attention_dropout": 0.1, "dim": 768, "dropout": 0.1, "hidden_dim": 3072, "initializer_range": 0.02,
        "max_position_embeddings": 512, "n_heads": 12, "n_layers": 6, "output_past": True, "pad_token_id": 0, "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False, "tie_weights_": True, "vocab_size": 30522,
    },
    "electra": {
        "attention_probs_dropout_prob": 0.1, "embedding_size": 128, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "hidden_size": 256, "initializer_range": 0.02, "intermediate_size": 1024, "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512, "num_attention_heads": 4, "num_hidden_layers": 12, "pad_token_id": 0,
        "position_embedding_type": "absolute", "summary_activation": "gelu", "summary_last_dropout": 0.1, "summary_type": "first",
        "summary_use_proj": True, "type_vocab_size": 2, "use_cache": True, "vocab_size": 30522,
    },
    "albert": {
        "attention_probs_dropout_prob": 0, "bos_token_id": 2, "classifier_dropout_prob": 0.1, "down_scale_factor": 1,
        "embedding_size": 128, "eos_token_id": 3, "gap_size": 0, "hidden_act": "gelu_new", "hidden_dropout_prob": 0,
        "hidden_size": 768, "initializer_range": 0.02, "inner_group_num": 1, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512, "net_structure_type": 0, "num_attention_heads": 12, "num_hidden_groups": 1,
        "num_hidden_layers": 12, "num_memory_blocks": 0, "pad_token_id": 0, "position_embedding_type": "absolute",
        "type_vocab_size": 2, "vocab_size": 30000,
    },
    "mpnet": {
        "attention_probs_dropout_prob": 0.1, "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 514, "num_attention_heads": 12, "num_hidden_layers": 12,
        "pad_token_id": 1, "relative_attention_num_buckets": 32, "vocab_size": 30527,
    },
}  # fmt: skip


@pytest.mark.parametrize("model_type", PUBLISHED)
def test_the_defaults_are_those_of_the_published_checkpoint(model_type: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, **PUBLISHED[model_type]}))
    config = minitrans.AutoConfig.from_pretrained(tmp_path)
    config.extra.clear()  # what the reference's authors left in the file, and nobody reads
    assert config == type(config)()
    assert config.model_type == model_type
