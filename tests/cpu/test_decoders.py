"""A prepared decoder or pair writes what the model it was prepared from writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import minitrans
from minitrans.cpu import linear, prepare
from minitrans.errors import NotSupportedError
from minitrans.layers.cache import Cache

LLAMA: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96,
    "pad_token_id": 0,
}  # fmt: skip
BART: dict[str, Any] = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 96, "decoder_ffn_dim": 80, "max_position_embeddings": 64, "pad_token_id": 1,
}  # fmt: skip
T5: dict[str, Any] = {"d_model": 64, "d_kv": 8, "d_ff": 96, "num_layers": 2, "num_heads": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "eos_token_id": 2, "bos_token_id": 1},
    ),
    "llama": ("LlamaForCausalLM", LLAMA),
    "mistral": ("MistralForCausalLM", {**LLAMA, "sliding_window": 4}),
    "qwen2": ("Qwen2ForCausalLM", LLAMA),
    "qwen3": ("Qwen3ForCausalLM", {**LLAMA, "head_dim": 16}),
    "bart": ("BartForConditionalGeneration", BART),
    "mbart": ("MBartForConditionalGeneration", BART),
    "marian": (
        "MarianMTModel",
        {**BART, "pad_token_id": 98, "decoder_start_token_id": 98, "activation_function": "swish"},
    ),
    "m2m_100": ("M2M100ForConditionalGeneration", BART),
    "pegasus": ("PegasusForConditionalGeneration", BART),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5 v1.1": ("T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "umt5": ("UMT5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}),
}
CALLS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
    "a static cache": {"cache_implementation": "static"},
    "drafts": {"prompt_lookup_num_tokens": 3},
}


def model_of(name: str) -> Any:
    kind, fields = MODELS[name]
    cls = getattr(minitrans, kind)
    torch.manual_seed(0)
    model = cls(cls.config_class(vocab_size=99, **fields)).eval()
    for parameter in [
        *model.parameters(),
        *(each for name, each in model.named_buffers() if name == "final_logits_bias"),
    ]:
        parameter.data += 0.1 * torch.randn(parameter.shape)  # biases and norms too
    return model


def prompts(padded: bool = True) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 95, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, : 4 * padded] = 0
    return {"input_ids": ids, "attention_mask": mask}


def written(model: Any, **options: Any) -> Any:
    settings = {"max_new_tokens": 10, "min_new_tokens": 6, "eos_token_id": 2, "return_dict_in_generate": True}
    return model.generate(**prompts(), **settings, output_logits=True, pad_token_id=0, **options)


def logits_of(model: Any) -> torch.Tensor:
    """Of one call without a cache."""
    inputs = prompts(padded=False)
    if model.config.get("is_encoder_decoder"):
        inputs = {**prompts(), "decoder_input_ids": inputs["input_ids"]}
    with torch.no_grad():
        logits: torch.Tensor = model(**inputs, use_cache=False).logits
    return logits


@pytest.mark.parametrize("packed", [False, True], ids=["small weights", "packed weights"])
@pytest.mark.parametrize("name", MODELS)
def test_float32_writes_what_the_model_writes(name: str, packed: bool, monkeypatch: pytest.MonkeyPatch):
    model = model_of(name)
    if packed:
        monkeypatch.setattr(linear, "_SMALL", 0)
    fast = prepare(model)
    expected = logits_of(model)
    torch.testing.assert_close(logits_of(fast), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    for call in CALLS if packed else ["greedy"]:
        one, other = written(model, **CALLS[call]), written(fast, **CALLS[call])
        assert torch.equal(one.sequences, other.sequences), call
        for ours, exact in zip(other.logits, one.logits, strict=True):
            there = exact.isfinite()
            torch.testing.assert_close(ours[there], exact[there], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.03), ("int8", 0.12)])
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "marian", "t5 v1.1"])
def test_low_precision_stays_near(name: str, dtype: str, most: float, monkeypatch: pytest.MonkeyPatch):
    """By the length of the difference over that of the logits: bfloat16 has steps of 1/256, 8 bits of 1/127 of the largest."""
    monkeypatch.setattr(linear, "_SMALL", 0)
    model = model_of(name)
    exact = logits_of(model)
    found = logits_of(prepare(model, dtype))
    assert found.dtype == torch.float32
    assert 1e-4 < float((found - exact).norm() / exact.norm()) < most


def test_small_weights_stay_in_float32():
    model = model_of("llama")
    torch.testing.assert_close(logits_of(prepare(model, "int8")), logits_of(model), rtol=1e-4, atol=1e-4)


def test_a_cache_of_the_model_goes_on_in_the_prepared_one():
    model, ids = model_of("llama"), prompts()["input_ids"]
    with torch.no_grad():
        expected = model(input_ids=ids).logits[:, -1]
        past = model(input_ids=ids[:, :-1], use_cache=True).past_key_values
    fast = prepare(model)
    found = fast(input_ids=ids[:, -1:], past_key_values=past, use_cache=True)
    torch.testing.assert_close(found.logits[:, -1], expected, rtol=1e-5, atol=1e-5)
    assert (past.get_seq_length(), found.past_key_values.get_seq_length()) == (8, 9)


def test_memory_of_a_static_cache_is_as_computed():
    """2 · layers · texts · heads of keys · tokens · head width numbers of 4 bytes, whatever is written so far."""
    model, ids = model_of("llama"), prompts()["input_ids"]
    found = prepare(model)(input_ids=ids, past_key_values=Cache.static(2, 20), use_cache=True).past_key_values
    memory = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for layer in found for each in layer}
    assert sum(memory.values()) == 2 * 2 * 3 * 2 * 20 * 16 * 4


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "output_attentions": ({"output_attentions": True}, "a prepared decoder does not go with output_attentions"),
    "head_mask": ({"head_mask": torch.ones(4)}, "does not go with head_mask"),
    "padding": ({"padding": "remove", "use_cache": False}, "does not go with a packed batch, or padding='remove'"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_call_may_not_ask_for(name: str):
    options, message = REFUSALS[name]
    with pytest.raises(NotSupportedError, match=message):
        prepare(model_of("gpt2"))(**prompts(), **options)


def test_models_that_are_not_served():
    torch.manual_seed(0)
    config = minitrans.Gemma2Config(vocab_size=99, head_dim=16, **LLAMA)
    with pytest.raises(
        NotSupportedError, match=r"cannot be prepared: its projections are not linear; its attention is not full"
    ):
        prepare(minitrans.Gemma2ForCausalLM(config).eval())
    model = model_of("llama")
    model.set_attention("linear")
    with pytest.raises(NotSupportedError, match="its attention is not full"):
        prepare(model)


@pytest.fixture
def stories(shared_data: Path) -> Any:
    folder = shared_data / "stories260K" / "hf"
    if not folder.is_dir():
        pytest.skip("stories260K is absent")
    return minitrans.AutoModelForCausalLM.from_pretrained(folder).eval()


def test_int8_of_a_trained_model(stories: Any, monkeypatch: pytest.MonkeyPatch):
    """The next token that it finds likeliest is that of the model, at nine of ten places of what the model writes."""
    text = stories.generate(torch.ones(1, 1, dtype=torch.long), max_new_tokens=200, do_sample=False, eos_token_id=None)
    assert torch.equal(
        prepare(stories).generate(text[:, :1], max_new_tokens=200, do_sample=False, eos_token_id=None), text
    )
    monkeypatch.setattr(linear, "_SMALL", 0)
    for dtype, least in (("bfloat16", 0.95), ("int8", 0.9)):
        found = prepare(stories, dtype)(input_ids=text).logits.argmax(-1)[:, :-1]
        assert (found == text[:, 1:]).double().mean() >= least


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_states_and_inputs_are_not_written_over(dtype: str, monkeypatch: pytest.MonkeyPatch):
    """Sums are made in the memory of their terms where that is free."""
    monkeypatch.setattr(linear, "_SMALL", 0)
    model = model_of("gpt2")
    fast, vectors = prepare(model, dtype), torch.randn(3, 9, 64, generator=torch.Generator().manual_seed(2))
    kept = vectors.clone()
    found = fast(inputs_embeds=vectors, output_hidden_states=True).hidden_states
    with torch.no_grad():
        expected = model(inputs_embeds=vectors, output_hidden_states=True).hidden_states
    assert torch.equal(vectors, kept)
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < {"float32": 1e-5, "bfloat16": 0.02, "int8": 0.1}[dtype]
