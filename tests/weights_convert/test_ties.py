"""B3: the decoder of a language-modelling head and its bias, said once, twice, differently, or apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from minitrans.models.auto import class_by_name
from minitrans.models.loading import load_model
from minitrans.models.saving import save_model

Make = Callable[..., Any]
IDS = torch.tensor([[3, 4, 5, 6, 7]])


def load(class_name: str, folder: Path, **options: Any) -> Any:
    return load_model(class_by_name(class_name), folder, **options)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        scores: torch.Tensor = model(input_ids=IDS).logits
    return scores


def reference_logits(class_name: str, folder: Path) -> torch.Tensor:
    return logits(getattr(transformers, class_name).from_pretrained(folder, attn_implementation="eager"))


@pytest.mark.parametrize("bits", ["bias only", "decoder.bias only", "both different", "untied"])
@pytest.mark.parametrize(
    ("class_name", "bias", "decoder"),
    [
        ("BertForMaskedLM", "cls.predictions.bias", "cls.predictions.decoder"),
        ("RobertaForMaskedLM", "lm_head.bias", "lm_head.decoder"),
    ],
)
def test_ties_of_the_decoder_bias(class_name: str, bias: str, decoder: str, bits: str, reference: Make) -> None:
    source = reference(class_name, tie_word_embeddings=bits != "untied")
    values = source.tensors[bias]
    if bits == "decoder.bias only":
        source.tensors[f"{decoder}.bias"] = source.tensors.pop(bias)
    elif bits == "both different":
        source.tensors[f"{decoder}.bias"] = values + 1
    source.write()
    model, report = load(class_name, source.folder)
    torch.testing.assert_close(logits(model), reference_logits(class_name, source.folder))
    assert (model.lm_head.decoder.weight is model.get_input_embeddings().weight) == (bits != "untied")
    different = bits in ("both different", "untied")
    assert torch.equal(model.lm_head.decoder.bias, values) != different
    assert any("differ in the checkpoint" in note for note in report.notes) == different


def test_an_untied_file_with_one_bias_keeps_it(reference: Make) -> None:
    # The reference loses it here and starts from zeros (B3); it was never meant to be anything but the decoder's.
    source = reference("BertForMaskedLM", tie_word_embeddings=False)
    del source.tensors["cls.predictions.decoder.bias"]
    model, _ = load("BertForMaskedLM", source.write().folder)
    assert torch.equal(model.lm_head.decoder.bias, source.tensors["cls.predictions.bias"])


def test_a_decoder_of_its_own_is_loaded_untied_and_stays_so(reference: Make, tmp_path: Path) -> None:
    source = reference("BertForMaskedLM")
    source.tensors["cls.predictions.decoder.weight"] = source.tensors["bert.embeddings.word_embeddings.weight"] + 1
    source.write()
    model, report = load("BertForMaskedLM", source.folder)
    torch.testing.assert_close(logits(model), reference_logits("BertForMaskedLM", source.folder))
    assert model.config.tie_word_embeddings is False
    assert any("tie_word_embeddings is False now" in note for note in report.notes)
    save_model(model, tmp_path / "again")
    assert torch.equal(logits(load("BertForMaskedLM", tmp_path / "again")[0]), logits(model))
    torch.testing.assert_close(reference_logits("BertForMaskedLM", tmp_path / "again"), logits(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_decoder_stored_twice_stays_tied_even_with_nan(dtype: torch.dtype, reference: Make) -> None:
    source = reference("BertForMaskedLM")
    table = source.tensors["bert.embeddings.word_embeddings.weight"]
    table.copy_(table.half())
    if dtype == torch.float32:
        table[7, 7] = float("nan")
    source.tensors["cls.predictions.decoder.weight"] = table.to(dtype)
    model, report = load("BertForMaskedLM", source.write().folder)
    assert model.lm_head.decoder.weight is model.get_input_embeddings().weight
    assert model.config.tie_word_embeddings is True
    assert not report.notes
