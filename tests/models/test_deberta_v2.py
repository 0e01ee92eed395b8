"""What only DeBERTa has: relative positions without an end, a convolution, two heads of the language model (V1)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import minitrans
from minitrans.checkpoints.verification import without_float32

SIZES: dict[str, Any] = {
    "vocab_size": 31, "hidden_size": 12, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 10,
    "max_position_embeddings": 512, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
MASK = torch.tensor([[1] * 9, [1] * 5 + [0] * 4, [0] * 3 + [1] * 6])
IDS = torch.randint(1, 31, (3, 9), generator=torch.Generator().manual_seed(1)) * MASK


@pytest.mark.parametrize("buckets", [-1, 32, 256])
def test_V1_buckets_of_long_texts(pair, error, buckets: int) -> None:
    """Longer than there are absolute positions; the borders of the buckets are where float32 puts them."""
    models = pair("deberta-v2", "Model", **SIZES, position_buckets=buckets)
    ids = torch.randint(1, 31, (1, 700), generator=torch.Generator().manual_seed(0))
    gradients = []
    for model in (models.ours, models.reference):
        model.eval()(ids)[0].square().sum().backward()
    assert error(models.ours(ids)[0], models.reference(ids)[0]) <= 1e-10
    gradients = [
        models.ours.encoder.relative_embeddings.weight.grad, models.reference.encoder.rel_embeddings.weight.grad,
    ]  # fmt: skip
    assert error(*gradients) <= 1e-10


def test_V1_positions_in_the_embeddings_have_an_end() -> None:
    config = minitrans.DebertaV2Config(**{**SIZES, "max_position_embeddings": 8}, position_biased_input=True)
    with pytest.raises(ValueError, match="the sequences have 9 tokens, the model has positions for 8"):
        minitrans.DebertaV2Model(config)(IDS)


def test_V1_the_convolution_does_not_see_padding(pair, error) -> None:
    """Neither in a padded batch, whatever the ids at padding, nor in a packed one, where texts lie side by side."""
    made = pair("deberta-v2", "Model", **SIZES, conv_kernel_size=5).ours.eval()
    kept = made(IDS, MASK, padding="keep").last_hidden_state
    other = made(IDS + 7 * (1 - MASK), MASK, padding="keep").last_hidden_state
    removed = made(IDS, MASK, padding="remove").last_hidden_state
    real = MASK.bool()
    assert torch.equal(other[real], kept[real])
    assert error(removed[real], kept[real]) <= 1e-12
    assert error(removed[1, :5], made(IDS[1:2, :5]).last_hidden_state[0]) <= 1e-12


def test_V1_the_head_that_works(pair, error) -> None:
    """`legacy=False`: its decoder is the token table, which learns from both ends."""
    config = {**SIZES, "position_buckets": 6, "relative_attention": True, "pos_att_type": "c2p|p2c"}
    torch.manual_seed(0)
    theirs = transformers.DebertaV2ForMaskedLM(transformers.DebertaV2Config(**config, legacy=False)).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    values = {**config, "norm_rel_ebd": "none", "share_att_key": False, "position_biased_input": True}
    ours = minitrans.DebertaV2ForMaskedLM(minitrans.DebertaV2Config(**values, legacy=False)).double().eval()
    ours.load_reference_state_dict(theirs.state_dict())
    assert ours.lm_head.decoder.weight is ours.get_input_embeddings().weight
    labels = IDS.masked_fill(MASK == 0, -100)
    with without_float32():
        outputs = [model(IDS, attention_mask=MASK, labels=labels) for model in (ours, theirs)]
    assert error(outputs[0].logits[MASK.bool()], outputs[1].logits[MASK.bool()]) <= 1e-10
    for output in outputs:
        output.loss.backward()
    assert error(*(model.get_input_embeddings().weight.grad for model in (ours, theirs))) <= 1e-10
    with pytest.raises(ValueError, match="legacy must be True: the other head scores by the token table"):
        minitrans.DebertaV2Config(**SIZES, legacy=False, tie_word_embeddings=False)


def test_a_published_file_has_the_other_head_and_a_discriminator(tmp_path) -> None:
    """Both are left out, with the reason; the head of this configuration is fresh."""
    config = minitrans.DebertaV2Config(**SIZES, legacy=False)
    minitrans.DebertaV2ForMaskedLM(config).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors |= {f"mask_predictions.{name}.weight": torch.ones(12) for name in ("dense", "LayerNorm", "classifier")}
    save_file(tensors, tmp_path / "model.safetensors")
    model = minitrans.DebertaV2ForMaskedLM.from_pretrained(tmp_path, legacy=True)
    assert {name.partition(".")[0] for name in model.load_report.fresh} == {"lm_head"}
    assert {name.partition(".")[0] for name in model.load_report.dropped} == {"lm_predictions", "mask_predictions"}
    assert not minitrans.DebertaV2ForMaskedLM.from_pretrained(tmp_path).load_report.fresh


@pytest.mark.parametrize("padding", ["keep", "remove"])
@pytest.mark.parametrize("attention", ["talking_heads", {"name": "sliding_window", "window": 2}, "linear"])
def test_another_attention_stands_on_its_own(attention: Any, padding: str, tmp_path) -> None:
    """Positions stay in the scores where there are scores; a mechanism that has none says so."""
    made = minitrans.DebertaV2Model(minitrans.DebertaV2Config(**SIZES)).double().eval()
    full = made(IDS, MASK, padding=padding).last_hidden_state
    made.set_attention(attention)
    if attention == "linear":
        with pytest.raises(minitrans.NotSupportedError, match="'linear' does not support"):
            made(IDS, MASK, padding=padding)
    else:
        swapped = made(IDS, MASK, padding=padding).last_hidden_state
        made.save_pretrained(tmp_path)
        again = minitrans.DebertaV2Model.from_pretrained(tmp_path)(IDS, MASK, padding=padding).last_hidden_state
        assert torch.equal(again, swapped)
    made.set_attention("full")
    assert torch.equal(made(IDS, MASK, padding=padding).last_hidden_state, full)


def test_blocks_that_run_again_give_the_same_gradients() -> None:
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        made = minitrans.DebertaV2Model(minitrans.DebertaV2Config(**SIZES, conv_kernel_size=3)).double().train()
        if again:
            made.gradient_checkpointing_enable()
        made(IDS, MASK).last_hidden_state[MASK.bool()].square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in made.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name
