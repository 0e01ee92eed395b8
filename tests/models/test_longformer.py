"""What only Longformer has: a window for every layer, and global tokens with projections of their own (L1, L3, L4)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import minitrans
from minitrans import NotSupportedError, PackedLayout

SIZES: dict[str, Any] = {
    "vocab_size": 31, "hidden_size": 12, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 10,
    "max_position_embeddings": 40, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
}  # fmt: skip
MASK = torch.tensor([[1] * 11, [1] * 7 + [0] * 4, [0] * 3 + [1] * 8])
IDS = torch.randint(5, 31, (3, 11), generator=torch.Generator().manual_seed(1)).masked_fill(MASK == 0, 1)
CHOSEN = torch.tensor([[1] + [0] * 10, [1, 0, 0, 1] + [0] * 7, [0] * 11])
PAIRS = IDS.index_fill(1, torch.tensor([4, 5, 6]), 2)


@pytest.mark.parametrize("window", [4, [4, 8]], ids=["one window", "a window a layer"])
@pytest.mark.parametrize("chosen", [None, CHOSEN, torch.ones_like(CHOSEN)], ids=["none", "some", "all"])
@pytest.mark.parametrize("length", [11, 8, 3])
def test_L3_global_tokens(pair, error, window: Any, chosen: Any, length: int) -> None:
    """Rows of padding too: nothing comes out of their attention. Whatever the length is (L1)."""
    models = pair("longformer", "Model", **SIZES, attention_window=window)
    inputs = {"input_ids": IDS[:, :length], "attention_mask": MASK[:, :length]}
    if chosen is not None:
        inputs["global_attention_mask"] = chosen[:, :length]
    ours, theirs = models.ours(**inputs), models.reference(**inputs)
    assert error(ours.last_hidden_state, theirs.last_hidden_state) <= 1e-10
    for output in (ours, theirs):
        output.last_hidden_state.square().sum().backward()
    gradients = models.gradients()
    floor = 1e-4 * max(float(gradient.abs().max()) for _, _, gradient in gradients)
    for name, mine, expected in gradients:
        assert error(mine, expected, floor) <= 1e-10, name


def test_L3_attentions_are_of_all_pairs(pair, error) -> None:
    """The reference has them by place in the window, and those of global tokens apart."""
    models = pair("longformer", "Model", **SIZES, attention_window=4)
    inputs = {"input_ids": IDS, "attention_mask": MASK, "global_attention_mask": CHOSEN}
    ours = models.ours.eval()(**inputs, output_attentions=True).attentions
    theirs = models.reference.eval()(**inputs, output_attentions=True)
    for layer in range(2):
        near, to_all = theirs.attentions[layer], theirs.global_attentions[layer]  # (B, H, T, g + 5), (B, H, S, g)
        expected = torch.zeros_like(ours[layer])
        for b in range(3):
            chosen = CHOSEN[b].nonzero().flatten().tolist()
            for i in range(11):
                for offset in range(5):
                    if 0 <= i + offset - 2 < 11:
                        expected[b, :, i, i + offset - 2] += near[b, :, i, 2 + offset]
                for number, j in enumerate(chosen):
                    expected[b, :, i, j] += near[b, :, i, number]
            for number, i in enumerate(chosen):
                expected[b, :, i] = to_all[b, :, :11, number]
        assert error(ours[layer], expected) <= 1e-10


@pytest.mark.parametrize("head", ["ForQuestionAnswering", "ForMultipleChoice"])
def test_L4_separators_tell_which_tokens_are_global(pair, error, head: str) -> None:
    models = pair("longformer", head, **SIZES)
    ids = PAIRS[None] if head == "ForMultipleChoice" else PAIRS
    mask = MASK[None] if head == "ForMultipleChoice" else MASK
    chosen = torch.arange(11) < 4 if head == "ForQuestionAnswering" else torch.arange(11) > 5
    told, given = (
        models.ours(ids, attention_mask=mask, **more)[0]
        for more in ({}, {"global_attention_mask": chosen.expand(ids.shape)})
    )
    assert torch.equal(told, given)
    assert error(told, models.reference(ids, attention_mask=mask)[0]) <= 1e-10
    with pytest.raises(
        ValueError, match=r"must have 3 of sep_token_id, got \[0, 0, 0\]; or give global_attention_mask"
    ):
        models.ours(IDS[None] if head == "ForMultipleChoice" else IDS, attention_mask=mask)


def test_L4_the_first_token_of_a_text_to_classify_is_global(pair) -> None:
    made = pair("longformer", "ForSequenceClassification", **SIZES).ours.eval()
    first = (torch.arange(11) == 0).expand(3, 11)
    assert torch.equal(made(IDS, MASK).logits, made(IDS, MASK, first).logits)
    assert not torch.equal(made(IDS, MASK).logits, made(IDS, MASK, CHOSEN).logits)
    kept = IDS[MASK.bool()][:18]
    packed = made(kept, layout=PackedLayout.from_lengths([11, 7])).logits
    torch.testing.assert_close(packed, made(IDS, MASK).logits[:2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["eager", "sdpa", "online_softmax", "triton"])
def test_every_backend(pair, error, backend: str) -> None:
    made = pair("longformer", "Model", **SIZES).ours.eval()
    expected = made(IDS, MASK, CHOSEN).last_hidden_state
    made.set_backend(backend)
    assert error(made(IDS, MASK, CHOSEN).last_hidden_state, expected) <= 1e-12
    real = MASK.bool()
    assert error(made(IDS, MASK, CHOSEN, padding="remove").last_hidden_state[real], expected[real]) <= 1e-12


def test_a_square_mask_holds_for_global_tokens_too(pair, error) -> None:
    made = pair("longformer", "Model", **SIZES).ours.eval()
    keys = MASK.bool()[:, None, None].expand(-1, 1, 11, -1)
    expected, real = made(IDS, MASK, CHOSEN).last_hidden_state, MASK.bool()
    assert error(made(IDS, keys, CHOSEN).last_hidden_state[real], expected[real]) <= 1e-12


def test_its_window_stays_under_another_attention(pair, tmp_path) -> None:
    made = pair("longformer", "Model", **SIZES).ours.eval()
    full = made(IDS, MASK, CHOSEN).last_hidden_state
    made.set_attention("talking_heads", dropout=0.25)
    assert made.encoder.layer[1].attention.own[0].dropout.p == 0.25
    swapped = made(IDS, MASK, CHOSEN).last_hidden_state
    made.save_pretrained(tmp_path)
    again = minitrans.LongformerModel.from_pretrained(tmp_path)
    assert torch.equal(again(IDS, MASK, CHOSEN).last_hidden_state, swapped)
    weights = made(IDS, MASK, output_attentions=True).attentions[0]
    assert (weights[0, 0, 0, 3:] == 0).all()
    made.set_attention("landmarks")
    with pytest.raises(NotSupportedError, match="'landmarks' does not support masks but key padding"):
        made(IDS, MASK)
    made.set_attention("full", "eager")
    assert torch.equal(made(IDS, MASK, CHOSEN).last_hidden_state, full)


def test_its_own_projections_begin_as_the_others() -> None:
    made = minitrans.LongformerModel(minitrans.LongformerConfig(**{**SIZES, "hidden_size": 60}))
    own, other = (
        made.get_parameter(f"encoder.layer.0.attention.{name}") for name in ("own.0.key_global.weight", "key.weight")
    )
    assert abs(float(own.detach().std() / other.detach().std()) - 1) < 0.1
    assert (made.get_parameter("encoder.layer.0.attention.own.0.key_global.bias") == 0).all()


def test_a_wrong_mask_of_global_tokens_is_refused(pair) -> None:
    made = pair("longformer", "Model", **SIZES).ours
    with pytest.raises(ValueError, match=r"global_attention_mask must be \(B, T\) = \(3, 11\), got \(3, 4\)"):
        made(IDS, MASK, CHOSEN[:, :4])
