"""FNet: what the checks of all families do not show (FN1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import minitrans
from minitrans import NotSupportedError, PackedLayout
from minitrans.checkpoints.verification import verify
from minitrans.layers.fourier import FourierMixer

SIZES: dict[str, Any] = {
    "vocab_size": 37, "hidden_size": 15, "num_hidden_layers": 2, "intermediate_size": 20, "max_position_embeddings": 33,
}  # fmt: skip
IDS = torch.randint(4, 37, (2, 9), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])


def test_the_mixer_is_the_sum_written_out():
    """Odd sizes; the imaginary part has no part in it."""
    from minitrans.attention.context import Context

    x = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    expected = torch.zeros_like(x)
    for n in range(3):
        for k in range(5):
            for t in range(3):
                for d in range(5):
                    angle = torch.tensor(2 * torch.pi * (n * t / 3 + k * d / 5), dtype=torch.float64)
                    expected[:, n, k] += x.detach()[:, t, d] * angle.cos()
    found = FourierMixer()(x, Context()).output
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-12)
    assert FourierMixer()(x.detach().bfloat16(), Context()).output.dtype == torch.bfloat16
    assert torch.autograd.gradcheck(lambda x: FourierMixer()(x, Context()).output, x)


def test_FN1_padding_is_mixed_in_whatever_the_mask_says(pair, error):
    models = pair("fnet", "ForMaskedLM", **SIZES)
    got, expected = (model.eval()(IDS, attention_mask=MASK).logits for model in (models.ours, models.reference))
    assert error(got, expected) <= 1e-12
    assert error(models.ours(IDS).logits, expected) <= 1e-12
    longer = torch.cat([IDS, torch.full((2, 1), 3)], dim=1)
    assert error(models.ours(longer).logits[:, :9], expected) > 1e-3
    for call in (
        lambda: models.ours(IDS, attention_mask=MASK, padding="remove"),
        lambda: models.ours(IDS[0], layout=PackedLayout.from_lengths([9])),
    ):
        with pytest.raises(NotSupportedError, match="does not go with a Fourier transform, which mixes padding in"):
            call()
    with pytest.raises(NotSupportedError, match="head_mask: the blocks of this model have no attention heads"):
        models.ours(IDS, head_mask=torch.ones(1))
    with torch.no_grad():
        many = minitrans.FNetModel(minitrans.FNetConfig(**{**SIZES, "hidden_size": 512})).eval()
        ids, mask = torch.full((16, 33), 5), torch.zeros(16, 33, dtype=torch.long)
        mask[:, :2] = 1  # so much padding that other families leave it out by themselves
        assert torch.equal(many(ids, attention_mask=mask)[0], many(ids)[0])


def test_there_is_no_attention_to_swap():
    model = minitrans.FNetModel(minitrans.FNetConfig(**SIZES)).eval()
    assert model(IDS, output_attentions=True).attentions is None
    model.set_attention("full")
    for swap in (
        lambda: model.set_attention("sigmoid"),
        lambda: minitrans.FNetModel(minitrans.FNetConfig(**SIZES, attention="rotary")),
    ):
        with pytest.raises(NotSupportedError, match="FNetModel has no attention: nothing can be swapped"):
            swap()
    assert model.config.attention == "full"
    with pytest.raises(ValueError, match="pruned_heads must be some, not all"):
        model.prune_heads({0: [0]})


def test_FN1_matrices_of_the_transform_are_computed(tmp_path: Path, error):
    """A file written for a TPU holds them: the same numbers."""
    config = transformers.FNetConfig(**SIZES)
    theirs = transformers.FNetModel(config).eval()
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for layer in range(2):
        tensors[f"encoder.layer.{layer}.fourier.self.dft_mat_hidden"] = torch.zeros(15, 15, dtype=torch.complex64)
        tensors[f"encoder.layer.{layer}.fourier.self.dft_mat_seq"] = torch.zeros(9, 9, dtype=torch.complex64)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    ours = minitrans.FNetModel.from_pretrained(tmp_path)
    assert len(ours.load_report.dropped) == 4
    assert torch.allclose(ours(IDS)[0], theirs(IDS)[0], atol=1e-5)
    ours.save_pretrained(tmp_path / "ours")
    assert verify(tmp_path / "ours").equal
