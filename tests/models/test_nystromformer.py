"""What only Nyströmformer has: landmarks, a convolution that sees padding, positions from 2 on (Y1)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import minitrans
from minitrans import NotSupportedError, PackedLayout

SIZES: dict[str, Any] = {
    "vocab_size": 31, "hidden_size": 12, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 10,
    "max_position_embeddings": 12, "type_vocab_size": 2, "layer_norm_eps": 1e-5, "conv_kernel_size": 3,
}  # fmt: skip
LANDMARKS: dict[str, Any] = {"num_landmarks": 4, "segment_means_seq_len": 12}
IDS = torch.randint(2, 31, (3, 12), generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[1] * 12, [1] * 7 + [0] * 5, [0] * 3 + [1] * 9])


@pytest.mark.parametrize("landmarks", [1, 4, 6])
def test_Y1_landmarks(pair, error, landmarks: int) -> None:
    """The pseudo-inverse begins with a number of the whole batch. (With a mask the reference cannot run this.)"""
    models = pair("nystromformer", "Model", **SIZES, **{**LANDMARKS, "num_landmarks": landmarks})
    ours, theirs = (model.eval()(IDS).last_hidden_state for model in (models.ours, models.reference))
    assert error(ours, theirs) <= 1e-10
    for output in (ours, theirs):
        output.square().sum().backward()
    gradients = models.gradients()
    floor = 1e-4 * max(float(gradient.abs().max()) for _, _, gradient in gradients)
    for name, mine, expected in gradients:
        assert error(mine, expected, floor) <= 1e-10, name
    alone = models.ours(IDS[:1]).last_hidden_state
    assert (landmarks == 1) == bool((alone - ours[:1]).abs().max() < 1e-12)


def test_Y1_landmarks_do_not_see_padding_as_keys(pair) -> None:
    """But in their means, and in the convolution, it takes part, as without landmarks."""
    made = pair("nystromformer", "Model", **SIZES, **LANDMARKS).ours.eval()
    attention = made.encoder.layer[0].attention.own[0]
    query, key, value = torch.randn(
        3, 3, 3, 12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).unbind()
    rules = minitrans.AttentionRules(minitrans.AttentionMask(key_padding=MASK.bool()), need_weights=True)
    result = attention.compute(query, key, value, rules)
    assert (result.weights.mT[~MASK.bool()[:, None].expand(-1, 3, -1)] == 0).all()
    torch.testing.assert_close(result.output - attention.conv(value), result.weights @ value, rtol=0, atol=1e-12)


def test_Y1_there_is_no_dropout_in_its_attention(pair) -> None:
    made = minitrans.NystromformerModel(
        minitrans.NystromformerConfig(**SIZES, attention_probs_dropout_prob=0.9, hidden_dropout_prob=0.0)
    )
    assert torch.equal(made.train()(IDS)[0], made.eval()(IDS)[0])


def test_Y1_the_first_position_is_2(pair) -> None:
    made = pair("nystromformer", "Model", **SIZES).ours.eval()
    assert made.embeddings.position_embeddings.num_embeddings == 14
    assert made.positions(IDS, 0)[0].tolist() == [*range(2, 14)]
    with pytest.raises(ValueError, match="13 tokens, the model has positions for 12"):
        made(torch.cat([IDS, IDS[:, :1]], dim=1))


def test_what_cannot_be_is_refused(pair) -> None:
    made = pair("nystromformer", "Model", **SIZES, **LANDMARKS).ours.eval()
    with pytest.raises(NotSupportedError, match="of another length than segment_means_seq_len=12: pad them to it"):
        made(IDS[:, :9])
    with pytest.raises(NotSupportedError, match="'nystromformer' does not support masks but key padding"):
        made(IDS, torch.ones(3, 1, 12, 12, dtype=torch.bool))
    with pytest.raises(NotSupportedError, match="does not go with an attention that does not support packed batches"):
        made(IDS, MASK, padding="remove")
    with pytest.raises(NotSupportedError, match="a packed batch does not go with"):
        made(IDS.flatten(), layout=PackedLayout.from_lengths([12, 12, 12]))


@pytest.mark.parametrize("attention", ["talking_heads", "sigmoid", {"name": "sliding_window", "window": 2}])
@pytest.mark.parametrize("landmarks", [{}, LANDMARKS], ids=["exact", "landmarks"])
def test_another_attention(pair, tmp_path, attention: Any, landmarks: dict[str, Any]) -> None:
    """One that computes takes the place of its own; a pattern needs scores of all pairs, or is refused."""
    made = pair("nystromformer", "Model", **SIZES, **landmarks).ours.eval()
    full = made(IDS, MASK).last_hidden_state
    made.set_attention(attention)
    if landmarks and isinstance(attention, dict):
        with pytest.raises(NotSupportedError, match="'nystromformer' does not support"):
            made(IDS, MASK)
    else:
        swapped = made(IDS, MASK).last_hidden_state
        assert not torch.equal(swapped, full)
        made.save_pretrained(tmp_path)
        again = minitrans.NystromformerModel.from_pretrained(tmp_path)
        assert torch.equal(again(IDS, MASK).last_hidden_state, swapped)
    made.set_attention("full")
    assert torch.equal(made(IDS, MASK).last_hidden_state, full)
