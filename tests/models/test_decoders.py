"""Families that are decoders by nature: what is theirs alone, and a cache in every form."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import minitrans
from minitrans.attention.rotary_scaling import ScaledRotary
from minitrans.families import FAMILIES
from minitrans.layers.cache import Cache
from minitrans.models.auto import config_class, model_class

SIZES: dict[str, Any] = {
    "vocab_size": 37, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 35,
    "max_position_embeddings": 40, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6, "use_sliding_window": True,
    "max_window_layers": 1, "query_pre_attn_scalar": 7,
}  # fmt: skip
DECODERS = [model_type for model_type in FAMILIES if getattr(config_class(model_type), "is_decoder", False)]
IDS = torch.randint(2, 37, (3, 12), generator=torch.Generator().manual_seed(3))


def build(model_type: str, auto_name: str = "AutoModelForCausalLM", **fields: Any) -> Any:
    """A random model of ours in float64 and evaluation mode."""
    cls = model_class(auto_name, model_type)
    known = {item.name for item in dataclasses.fields(cls.config_class)}
    named = {cls.config_class.own_names.get(name, name): value for name, value in {**SIZES, **fields}.items()}
    torch.manual_seed(5)
    model = cls(cls.config_class(**{name: value for name, value in named.items() if name in known})).double().eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model


def close(ours: Tensor, expected: Tensor) -> None:
    assert ours.shape == expected.shape
    assert float((ours - expected).abs().max()) <= 1e-12 * max(1.0, float(expected.abs().max()))


@torch.no_grad()
@pytest.mark.parametrize("model_type", DECODERS)
@pytest.mark.parametrize("capacity", [None, 12, 20])
def test_step_by_step_as_all_at_once(model_type: str, capacity: int | None) -> None:
    """One row is padded on the left: it is the same row alone, its positions given."""
    model = build(model_type)
    mask = torch.ones_like(IDS)
    mask[1, :3] = 0
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    whole = model(IDS, attention_mask=mask, position_ids=positions, use_cache=False).logits
    cache = None if capacity is None else Cache.static(3, capacity)
    parts = []
    for start, end in ((0, 5), (5, 6), (6, 7), (7, 11), (11, 12)):
        out = model(
            IDS[:, start:end], attention_mask=mask[:, :end], position_ids=positions[:, start:end],
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        cache = out.past_key_values
        parts.append(out.logits)
    real = mask.bool()
    close(torch.cat(parts, dim=1)[real], whole[real])
    close(model(IDS[1:2, 3:]).logits[0], whole[1, 3:])


@torch.no_grad()
@pytest.mark.parametrize("model_type", DECODERS)
def test_a_token_sees_none_after_it(model_type: str) -> None:
    model = build(model_type, "AutoModel")
    changed = IDS.clone()
    changed[:, 7:] = IDS[:, 7:].flip(1) // 2
    close(model(changed).last_hidden_state[:, :7], model(IDS).last_hidden_state[:, :7])
    assert not torch.equal(model(changed).last_hidden_state[:, 7:], model(IDS).last_hidden_state[:, 7:])


@torch.no_grad()
@pytest.mark.parametrize("model_type", DECODERS)
def test_swapping_the_attention_there_and_back(model_type: str) -> None:
    model = build(model_type)
    before = model(IDS).logits
    for attention in ({"name": "sliding_window", "window": 4}, "sink", "qk_norm"):
        model.set_attention(attention)
        model.double()
        changed = model(IDS).logits
        assert float((changed - before).abs().max()) > 1e-6
        past = model(IDS[:, :7]).past_key_values
        close(model(IDS[:, 7:], past_key_values=past).logits, changed[:, 7:])
        model.set_attention("full")
        assert torch.equal(model(IDS).logits, before)


@torch.no_grad()
@pytest.mark.parametrize("model_type", DECODERS)
def test_G3_the_last_token_before_padding_stands_for_a_text(model_type: str) -> None:
    model = build(model_type, "AutoModelForSequenceClassification", pad_token_id=1, num_labels=3)
    alone = [model(IDS[row : row + 1, : 12 - row]).logits for row in range(3)]
    padded = torch.stack([IDS[row].masked_fill(torch.arange(12) >= 12 - row, 1) for row in range(3)])
    close(model(padded).logits, torch.cat(alone))
    left, rows = torch.full((3, 12), 1), []
    for row in range(3):
        left[row, row:] = IDS[row, : 12 - row]
    mask = (left != 1).long()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    close(model(left, attention_mask=mask, position_ids=positions).logits, torch.cat(alone))
    for row in range(3):
        rows.append(model(inputs_embeds=model.get_input_embeddings()(IDS[row : row + 1, : 12 - row])).logits)
    assert rows[0].shape == (1, 3)
    model.config.pad_token_id = None
    assert model(IDS[:1]).logits.shape == (1, 3)
    with pytest.raises(
        ValueError, match=r"where do the 3 texts end\? Say which id is padding: model.config.pad_token_id"
    ):
        model(IDS)


@pytest.mark.parametrize("model_type", DECODERS)
def test_a_file_may_say_that_it_is_a_decoder(model_type: str, tmp_path: Path) -> None:
    build(model_type).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    for value in (True, False, None):  # the reference does not look at it either
        (tmp_path / "config.json").write_text(json.dumps({**stored, "is_decoder": value}))
        assert minitrans.AutoConfig.from_pretrained(tmp_path).is_decoder is True


# -- LLaMA and those that follow it ----------------------------------------------------------------------------------

ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10},
    "yarn, all of it": {
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 12, "beta_fast": 3, "beta_slow": 0.3,
        "mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False, "rope_theta": 300.0,
    },
    "yarn, growth given": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.25},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 24, "rope_theta": 90.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
def test_rotary_positions_that_reach_further(pair: Any, error: Any, rope: dict[str, Any]) -> None:
    """In float64, within the trained length and beyond it: the reference recomputes its frequencies then."""
    models = pair("llama", "Model", **{**SIZES, "head_dim": 16, "max_position_embeddings": 12}, rope_parameters=rope)
    generator = torch.Generator().manual_seed(2)
    for length in (7, 12, 31):
        ids = torch.randint(2, 37, (2, length), generator=generator)
        got, expected = (model.eval()(ids).last_hidden_state for model in (models.ours, models.reference))
        assert error(got, expected) <= 1e-10, length
    old = {"type" if key == "rope_type" else key: value for key, value in rope.items() if key != "rope_theta"}
    config = models.ours.config.updated(rope_parameters=None, rope_scaling=old, rope_theta=rope.get("rope_theta"))
    assert {key: value for key, value in config.rope.items() if key != "type"} == models.ours.config.rope


@pytest.mark.parametrize(
    ("rope", "words"),
    [
        (
            {"rope_type": "longrope", "factor": 2.0},
            "of a rope_type that is known, default, linear, dynamic, yarn, llama3",
        ),
        ({"type": "mrope", "mrope_section": [2, 3]}, "of a rope_type that is known"),
        ({"rope_type": "linear"}, "of 'linear' with factor"),
        ({"rope_type": "llama3", "factor": 8.0}, "of 'llama3' with factor, low_freq_factor, high_freq_factor"),
        ({"rope_type": "linear", "factor": "2"}, "of positive numbers"),
        ({"rope_type": "linear", "factor": 0}, "of positive numbers"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "one for all layers and all columns of a head"),
        ({"full_attention": {"rope_type": "default"}}, "one for all layers and all columns of a head"),
        ({"rope_theta": 1.0}, "rope_theta is not 1"),
    ],
)
def test_rotary_positions_that_are_not_understood(rope: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"rope must be .*{words}"):
        minitrans.LlamaConfig(rope_scaling=rope)


def test_sizes_that_do_not_fit() -> None:
    for fields, words in (
        ({"num_key_value_heads": 5}, "kv_heads must be a divisor of num_attention_heads, got 5"),
        ({"head_dim": 7}, "head_width must be even"),
        ({"num_key_value_heads": 0}, "kv_heads must be at least 1"),
        ({"pruned_heads": {0: [1]}}, "pruned_heads must be empty"),
    ):
        with pytest.raises(ValueError, match=words):
            minitrans.LlamaConfig(**fields)
    with pytest.raises(ValueError, match="sliding_window must be at least 1"):
        minitrans.MistralConfig(sliding_window=0)
    with pytest.raises(ValueError, match="layer_types must be one of full_attention, sliding_attention for each layer"):
        minitrans.Qwen2Config(layer_types=["full_attention"])


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma2"])
def test_which_layers_have_the_window(pair: Any, error: Any, family: str) -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    models = pair(family, "Model", **{**SIZES, "sliding_window": 3}, layer_types=kinds)
    got, expected = (model.eval()(IDS).last_hidden_state for model in (models.ours, models.reference))
    assert error(got, expected) <= 1e-10
    without = build(family, "AutoModel", layer_types=["full_attention"] * 3)
    assert [without.config.window_of(layer) for layer in range(3)] == [None] * 3


def test_angles_are_computed_once_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    angles = ScaledRotary.angles
    monkeypatch.setattr(ScaledRotary, "angles", lambda self, *given: calls.append(1) or angles(self, *given))
    build("llama")(IDS)
    assert len(calls) == 1


# (the greedy text of doc/stories260K.md of karpathy/llama2.c)
STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."


def test_a_real_llama_tells_the_published_story(shared_data: Path) -> None:
    folder = shared_data / "stories260K" / "hf"
    if not folder.is_dir():
        pytest.skip("stories260K is absent")
    model = minitrans.AutoModelForCausalLM.from_pretrained(folder)
    assert not model.load_report.fresh
    assert not model.load_report.unknown
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids, cache = torch.tensor([[1]]), None
    with torch.no_grad():
        for _ in range(200):
            out = model(ids if cache is None else ids[:, -1:], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            ids = torch.cat([ids, out.logits[:, -1:].argmax(dim=-1)], dim=1)
        expected = reference(ids).logits
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(ids[:, 1:], expected[:, :-1].argmax(dim=-1))
    words = vocabulary(shared_data / "stories260K" / "tok512.bin")
    assert "".join(words[i] for i in ids[0, 1:].tolist()).strip().startswith(STORY)


def vocabulary(path: Path) -> list[str]:
    """The pieces of a tokenizer of llama2.c."""
    data, at, words = path.read_bytes(), 4, []
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        words.append(data[at + 8 : at + 8 + length].decode())
        at += 8 + length
    return words


# -- GPT-2 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"summary_activation": "tanh", "summary_last_dropout": 0.3}])
def test_the_double_heads(pair: Any, error: Any, changes: dict[str, Any]) -> None:
    """In train mode, with dropout from the same seed: scores, both losses and every gradient."""
    models = pair("gpt2", "DoubleHeadsModel", **SIZES, **changes)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 37, (2, 3, 7), generator=generator)
    given: dict[str, Any] = {
        "input_ids": ids, "token_type_ids": ids.flip(2), "labels": ids.masked_fill(ids < 9, -100),
        "mc_token_ids": torch.tensor([[6, 2, 0], [1, 4, 5]]), "mc_labels": torch.tensor([2, 0]),
    }  # fmt: skip
    results = []
    for model in (models.ours, models.reference):
        torch.manual_seed(1)
        out = model(**given)
        (out.loss + 3 * out.mc_loss).backward()
        results.append(out)
    ours, theirs = results
    for name in ("loss", "mc_loss", "logits", "mc_logits"):
        assert error(getattr(ours, name), getattr(theirs, name)) <= 1e-10, name
    floor = 1e-4 * max(float(expected.abs().max()) for _, _, expected in models.gradients())
    for name, found, expected in models.gradients():
        assert error(found, expected, floor) <= 1e-10, name
    plain = {"input_ids": ids}
    assert error(models.ours.eval()(**plain).mc_logits, models.reference.eval()(**plain).mc_logits) <= 1e-10


def test_what_the_double_heads_refuse() -> None:
    for name, value in (("summary_use_proj", False), ("summary_proj_to_labels", False), ("summary_type", "mean")):
        with pytest.raises(ValueError, match=f"a text has one score, of one token: {name} must be "):
            minitrans.GPT2DoubleHeadsModel(minitrans.GPT2Config(n_embd=8, n_head=2, n_layer=1, **{name: value}))
    model = minitrans.GPT2DoubleHeadsModel(minitrans.GPT2Config(vocab_size=9, n_embd=8, n_head=2, n_layer=1))
    with pytest.raises(ValueError, match=r"several texts are \(B, choices, T\), got \(2, 3\)"):
        model(torch.ones(2, 3, dtype=torch.long))


@pytest.mark.parametrize(
    "changes", [{"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}, {"n_inner": None}]
)
def test_M6_how_scores_are_scaled(pair: Any, error: Any, changes: dict[str, Any]) -> None:
    models = pair("gpt2", "ForCausalLM", **{**SIZES, "add_cross_attention": True}, **changes)
    memory = torch.randn(3, 5, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    got, expected = (m.eval()(IDS, encoder_hidden_states=memory).logits for m in (models.ours, models.reference))
    assert error(got, expected) <= 1e-10


def test_G3_what_is_added_to_the_residual_stream_begins_smaller() -> None:
    torch.manual_seed(0)
    config = minitrans.GPT2Config(n_embd=128, n_head=2, n_layer=8, vocab_size=50, add_cross_attention=True)
    block = minitrans.GPT2LMHeadModel(config).transformer.encoder.layer[3]
    for small in (block.attention.output, block.cross_attention.output, block.feed_forward.down):
        assert float(small.weight.detach().std()) == pytest.approx(0.02 / 4, rel=0.05)
    for plain in (block.attention.query, block.feed_forward.up):
        assert float(plain.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_G3_buffers_of_old_files_are_left_out(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=37, n_embd=24, n_head=4, n_layer=2, n_positions=16, n_inner=35)
    reference = transformers.GPT2Model(config).eval()
    reference.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, tmp_path / "model.safetensors")
    model = minitrans.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(model) is minitrans.GPT2LMHeadModel
    assert len(model.load_report.dropped) == 4
    assert not model.load_report.unknown
    assert not model.load_report.fresh
    torch.testing.assert_close(model.transformer(IDS)[0], reference(IDS)[0])


def test_a_square_matrix_is_turned_too() -> None:
    """G1: c_proj is square, so that its shape would not tell."""
    config = transformers.GPT2Config(vocab_size=37, n_embd=24, n_head=4, n_layer=1, n_positions=16)
    reference = transformers.GPT2Model(config)
    ours = minitrans.GPT2Model.from_pretrained(config=config, state_dict=reference.state_dict())
    stored = reference.h[0].attn
    assert torch.equal(ours.encoder.layer[0].attention.output.weight, stored.c_proj.weight.T)
    assert torch.equal(ours.encoder.layer[0].attention.value.weight, stored.c_attn.weight[:, 48:].T)


@torch.no_grad()
def test_G1_keys_of_the_memory_come_before_its_values() -> None:
    config = transformers.GPT2Config(
        vocab_size=37, n_embd=24, n_head=4, n_layer=1, n_positions=16, add_cross_attention=True
    )
    reference = transformers.GPT2Model(config).eval()
    ours = minitrans.GPT2Model.from_pretrained(config=config, state_dict=reference.state_dict())
    stored, crossing = reference.h[0].crossattention, ours.encoder.layer[0].cross_attention
    assert torch.equal(crossing.key.weight, stored.c_attn.weight[:, :24].T)
    assert torch.equal(crossing.value.weight, stored.c_attn.weight[:, 24:].T)
    assert torch.equal(crossing.query.weight, stored.q_attn.weight.T)
