"""Pairs write what the reference's do; the source is read once, and its padding changes nothing."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import transformers

import minitrans
from minitrans.checkpoints.verification import without_float32

VOCABULARY = 23
_BART = {
    "vocab_size": VOCABULARY, "d_model": 12, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 3,
    "decoder_attention_heads": 3, "encoder_ffn_dim": 20, "decoder_ffn_dim": 20, "max_position_embeddings": 60, "pad_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "t5": (
        "T5Config", "T5ForConditionalGeneration",
        {"vocab_size": VOCABULARY, "d_model": 12, "d_kv": 4, "d_ff": 20, "num_layers": 2, "num_heads": 3, "decoder_start_token_id": 3,
         "pad_token_id": 1, "eos_token_id": 2},
    ),
    "bart": ("BartConfig", "BartForConditionalGeneration", {**_BART, "decoder_start_token_id": 2, "bos_token_id": 0}),
    "marian": ("MarianConfig", "MarianMTModel", {**_BART, "decoder_start_token_id": 1}),
}  # fmt: skip


@cache
def models(family: str, seed: int = 0) -> tuple[Any, Any]:
    config, name, fields = CLASSES[family]
    with torch.random.fork_rng(), without_float32():
        torch.default_generator.manual_seed(seed)
        reference_config = getattr(transformers, config)(**fields)
        reference_config._attn_implementation = "eager"
        reference = getattr(transformers, name)(reference_config).double().eval()
        reference.forward = without_float32()(reference.forward)
        with torch.no_grad():
            for parameter in reference.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.4)
    ours = getattr(minitrans, name)(getattr(minitrans, config)(**fields)).double().eval()
    ours.load_reference_state_dict(reference.state_dict())
    return reference, ours


def sources(lengths: list[int], side: str = "right") -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, VOCABULARY, (len(lengths), 6), generator=torch.Generator().manual_seed(1))
    places = torch.arange(6)
    mask = torch.stack([places < length if side == "right" else places >= 6 - length for length in lengths])
    moved = torch.full_like(ids, 1)
    for row, length in enumerate(lengths):
        moved[row, mask[row]] = ids[row, :length]
    return moved, mask.long()


CALLS: list[dict[str, Any]] = [
    {},
    {"do_sample": True, "num_return_sequences": 2, "top_p": 0.9},
    {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0},
    {"num_beams": 3, "early_stopping": True, "no_repeat_ngram_size": 2},
    {"encoder_no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    {"forced_bos_token_id": 7, "forced_eos_token_id": 2},
    {"decoder_input_ids": torch.tensor([[5, 6], [7, 8], [9, 9]])},
]


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("call", CALLS, ids=range(len(CALLS)))
def test_targets_are_the_references(family: str, call: dict[str, Any]):
    for seed in range(3):
        reference, ours = models(family, seed)
        ids, mask = sources([3, 6, 5])
        call = {"forced_eos_token_id": None, "attention_mask": mask, "max_new_tokens": 8, **call}
        torch.default_generator.manual_seed(2)
        expected = reference.generate(ids, **call)
        torch.default_generator.manual_seed(2)
        assert ours.generate(ids, **call).tolist() == expected.tolist()


SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {}, "sampling": {"do_sample": True, "seed": 3}, "beams": {"num_beams": 3}, "contrastive": {"penalty_alpha": 0.4, "top_k": 4},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}, "forced": {"num_beams": 4, "force_words_ids": [[7, 8]]},
    "dola": {"dola_layers": [0, 1]}, "lookup": {"prompt_lookup_num_tokens": 3},
}  # fmt: skip


@pytest.mark.parametrize("family", CLASSES)
@pytest.mark.parametrize("search", ["greedy", "sampling", "beams", "groups", "forced", "dola"])
def test_a_cache_changes_nothing(family: str, search: str):
    ours, (ids, mask) = models(family, 1)[1], sources([3, 6, 5])
    call = {"attention_mask": mask, "max_new_tokens": 8, **SEARCHES[search]}
    expected = ours.generate(ids, **call).tolist()
    for other in ({"use_cache": False}, {"cache_implementation": "static"}):
        assert ours.generate(ids, **call, **other).tolist() == expected


@pytest.mark.parametrize("family", CLASSES)
def test_a_draft_changes_nothing(family: str):
    ours, (ids, mask) = models(family, 1)[1], sources([3, 6, 5])
    for call in ({}, {"do_sample": True, "seed": 4}):
        call = {"attention_mask": mask, "max_new_tokens": 12, "eos_token_id": None, **call}
        plain = ours.generate(ids, **call).tolist()
        for draft in (
            {"assistant_model": ours},
            {"assistant_model": models(family, 2)[1]},
            {"prompt_lookup_num_tokens": 4},
        ):
            assert ours.generate(ids, **call, **draft).tolist() == plain


def test_the_source_is_read_once(monkeypatch: pytest.MonkeyPatch):
    ours, (ids, mask) = models("bart")[1], sources([3, 6, 5])
    read: list[int] = []
    encoder = ours.pair.encoder.forward
    monkeypatch.setattr(
        ours.pair.encoder, "forward", lambda *given, **named: read.append(1) or encoder(*given, **named)
    )
    expected = ours.generate(ids, attention_mask=mask, max_new_tokens=6, num_beams=3)
    assert read == [1]
    made = ours.encode(ids, mask)
    assert (
        ours.generate(encoder_outputs=made, attention_mask=mask, max_new_tokens=6, num_beams=3).tolist()
        == expected.tolist()
    )
    assert read == [1, 1]


def test_errors_say_what_to_do():
    ours, (ids, _) = models("marian")[1], sources([3])
    with pytest.raises(ValueError, match="a pair writes what follows from a source: give input_ids, inputs_embeds or"):
        ours.generate(max_new_tokens=3)
    with pytest.raises(
        ValueError,
        match=r"decoder_start_token_id must be the token .* set it in the call, or in model.generation_config",
    ):
        ours.generate(ids, decoder_start_token_id=None, bos_token_id=None)
    with pytest.raises(ValueError, match="one for each of the 1 sources, got \\[3, 4\\]"):
        ours.generate(ids, decoder_start_token_id=[3, 4])
    with pytest.raises(ValueError, match="guidance_scale moves away from another prompt, and a pair has none"):
        ours.generate(ids, guidance_scale=2.0)
    for call, words in (
        ({"decoder_start_token_id": 23}, "decoder_start_token_id must be of ids below vocab_size=23"),
        ({"decoder_input_ids": ids.expand(2, 6)}, r"decoder_input_ids must be \(B, T\) = \(1, 6\), got \(2, 6\)"),
        ({"encoder_outputs": torch.zeros(1, 3, 12)}, "encoder_outputs must be an output of encode, or a tuple"),
    ):
        with pytest.raises(ValueError, match=words):
            ours.generate(**({} if "encoder_outputs" in call else {"input_ids": ids}), **call)
    with pytest.raises(TypeError, match="no argument 'atention_mask'"):
        ours.generate(ids, atention_mask=ids)
    with pytest.raises(
        ValueError, match="up to 71 tokens, the model has positions for 60: ask for at most max_new_tokens=60"
    ):
        ours.generate(ids, max_new_tokens=70)
