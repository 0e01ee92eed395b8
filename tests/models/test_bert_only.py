"""What the reference dropped and we keep (M8): relative positions, head masks, pruned heads."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from torch import nn

from minitrans import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

FIELDS = {
    "vocab_size": 37, "hidden_size": 21, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 35,
    "max_position_embeddings": 13, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
IDS = torch.randint(1, 37, (2, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])


def v4_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
    """The reference's last version that had relative positions, pair by pair: products are added before the scaling."""
    length = query.shape[2]
    scores = query @ key.transpose(2, 3)
    for left in range(length):
        for right in range(length):
            vector = module.distance_embedding.weight[left - right + FIELDS["max_position_embeddings"] - 1]
            extra = query[:, :, left] @ vector
            if module.relative_kind == "relative_key_query":
                extra = extra + key[:, :, right] @ vector
            scores[:, :, left, right] = scores[:, :, left, right] + extra
    scores = scores * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    return (weights @ value).transpose(1, 2), weights


@pytest.mark.parametrize("kind", ["relative_key", "relative_key_query"])
@pytest.mark.parametrize("backend", ["eager", "sdpa", "online_softmax"])
def test_relative_positions_forward_and_gradients(error, kind: str, backend: str):
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register("v4_relative", v4_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register("v4_relative", sdpa_mask)
    torch.manual_seed(0)
    config = transformers.BertConfig(**FIELDS)
    config._attn_implementation = "v4_relative"
    reference = transformers.BertModel(config).double()
    ours = BertModel(BertConfig(**FIELDS, position_embedding_type=kind)).double()
    ours.set_attention("full", backend)
    state = ours.state_dict()
    for index, layer in enumerate(reference.encoder.layer):
        layer.attention.self.relative_kind = kind
        layer.attention.self.distance_embedding = nn.Embedding(25, 7, dtype=torch.float64)
        state[f"encoder.layer.{index}.attention.distance_embedding.weight"] = (
            layer.attention.self.distance_embedding.weight
        )
    for name, value in reference.state_dict().items():
        mine = name.replace("attention.self.", "attention.").replace("attention.output.dense", "attention.output")
        mine = mine.replace("attention.output.LayerNorm", "attention_LayerNorm").replace(
            "intermediate.dense", "feed_forward.up"
        )
        mine = mine.replace(".output.dense", ".feed_forward.down").replace(
            ".output.LayerNorm", ".feed_forward_LayerNorm"
        )
        state[mine] = value
    ours.load_state_dict(state)

    expected, got = reference(IDS, attention_mask=MASK), ours(IDS, attention_mask=MASK)
    assert error(got[0], expected[0]) <= 1e-10
    assert error(got[1], expected[1]) <= 1e-10
    expected[1].square().sum().backward()
    got[1].square().sum().backward()
    for index, layer in enumerate(reference.encoder.layer):
        mine, theirs = ours.encoder.layer[index].attention, layer.attention.self
        assert error(mine.distance_embedding.weight.grad, theirs.distance_embedding.weight.grad) <= 1e-10
        assert error(mine.query.weight.grad, theirs.query.weight.grad) <= 1e-10


def test_relative_positions_step_by_step(error):
    """The cache must not shift the distances (a defect the reference had)."""
    config = BertConfig(**FIELDS, position_embedding_type="relative_key_query", is_decoder=True)
    model = BertModel(config).double().eval()
    whole = model(IDS)[0]
    cache, parts = None, []
    for start, end in ((0, 1), (1, 4), (4, 9)):
        out = model(IDS[:, start:end], past_key_values=cache)
        cache = out.past_key_values
        parts.append(out[0])
    assert error(torch.cat(parts, dim=1), whole) <= 1e-10


def test_a_masked_head_is_a_pruned_head(error, tmp_path):
    model = BertForSequenceClassification(BertConfig(**FIELDS)).double().eval()
    mask = torch.ones(3, 3, dtype=torch.float64)
    mask[0, 1] = mask[2, 0] = mask[2, 2] = 0.0
    masked = model(IDS, MASK, head_mask=mask, output_attentions=True)
    assert masked.attentions[0][:, 1].abs().max() == 0
    assert error(masked.logits, model(IDS, MASK).logits) > 1e-3

    pruned = copy.deepcopy(model)
    pruned.prune_heads({0: [1], 2: [0]})
    pruned.prune_heads({2: [2]})  # numbered as in the unpruned model
    assert pruned.config.pruned_heads == {0: (1,), 2: (0, 2)}
    assert [block.attention.num_heads for block in pruned.bert.encoder.layer] == [2, 3, 1]
    assert error(pruned(IDS, MASK).logits, masked.logits) <= 1e-10
    with pytest.raises(ValueError, match="pruned already"):
        pruned.prune_heads({0: [1]})

    pruned.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert again.config.pruned_heads == pruned.config.pruned_heads
    assert torch.equal(again(IDS, MASK).logits, pruned(IDS, MASK).logits)
    pruned(IDS, MASK, labels=torch.tensor([0, 1])).loss.backward()
    assert pruned.bert.encoder.layer[0].attention.query.weight.grad.shape == (14, 21)


def test_head_mask_of_one_row_serves_every_layer(error):
    model = BertModel(BertConfig(**FIELDS)).double().eval()
    row = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    assert error(model(IDS, head_mask=row)[0], model(IDS, head_mask=row.expand(3, 3))[0]) == 0


def test_resized_embeddings_keep_their_rows_and_their_tie(error):
    """C4: the decoder that is put in its place comes with its bias."""
    model = BertForMaskedLM(BertConfig(**FIELDS)).double().eval()
    before = model(IDS).logits
    model.resize_token_embeddings(41)
    assert model.config.vocab_size == model.bert.config.vocab_size == 41
    assert model.lm_head.decoder.weight is model.bert.embeddings.word_embeddings.weight
    after = model(IDS).logits
    assert after.shape[-1] == 41
    assert error(after[..., :37], before) <= 1e-10
    model(torch.full((1, 3), 40), labels=torch.full((1, 3), 39)).loss.backward()
    model.resize_token_embeddings(37)
    assert error(model(IDS).logits, before) <= 1e-10
