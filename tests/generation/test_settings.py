"""Settings, generation_config.json, and errors that say what to do."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import minitrans
from minitrans import CheckpointError, GenerationConfig
from minitrans.errors import NotSupportedError
from minitrans.generation.config import OTHERS
from minitrans.generation.settings import NAMES, RULES, Settings, settings_of

OURS = {"frequency_penalty", "presence_penalty", "seed"}
IDS = torch.tensor([[5, 6, 7, 8]])


def test_the_names_and_defaults_are_the_references():
    theirs = vars(transformers.GenerationConfig())
    assert set(theirs) - {"transformers_version"} <= {*NAMES, *OTHERS}
    assert {*NAMES} - set(theirs) == OURS | {"max_matching_ngram_size"} - set(theirs)
    defaults = transformers.GenerationConfig._get_default_generation_params()
    ours = settings_of({})
    differ = {name for name, value in defaults.items() if hasattr(ours, name) and getattr(ours, name) != value}
    assert differ == {"max_length"}  # 20, with which the reference means 20 new tokens


def test_every_setting_is_checked():
    unchecked = {*NAMES} - {name for names, *_ in RULES for name in names}
    assert unchecked == set()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temperature", 0, "a number above 0"), ("temperature", "hot", "a number above 0"), ("top_p", 1.2, r"a number in \(0, 1\]"),
        ("top_k", -1, "a whole number, at least 0"), ("num_beams", 0, "at least 1"), ("max_new_tokens", 2.5, "a whole number"),
        ("do_sample", 1, "True or False"), ("eos_token_id", [], "a token id, or a list"), ("bad_words_ids", [[]], "none empty"),
        ("sequence_bias", {}, "token ids and a number"), ("early_stopping", "always", "'never'"), ("stop_strings", "", "none empty"),
        ("force_words_ids", [[5], []], "none empty"), ("seed", 1.5, "one for each prompt"), ("repetition_penalty", float("nan"), "a number above 0"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be(pair: Callable[..., Any], name: str, value: Any, words: str):
    with pytest.raises(ValueError, match=f"{name} must be .*{words}"):
        GenerationConfig(**{name: value})
    with pytest.raises(ValueError, match=f"{name} must be .*{words}"):
        pair("bert").ours.generate(IDS, **{name: value})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"num_return_sequences": 2}, "greedy search writes one text.*do_sample=True"),
        ({"num_beams": 2, "num_return_sequences": 3, "do_sample": True}, "at most num_beams=2, got 3"),
        ({"num_beams": 4, "num_beam_groups": 3}, "num_beam_groups must divide num_beams=4, got 3"),
        ({"num_beams": 4, "num_beam_groups": 2}, "without a diversity_penalty above 0"),
        ({"diversity_penalty": 1.0}, "set num_beam_groups"),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0, "do_sample": True}, "not sampled"),
        ({"force_words_ids": [[5]]}, "set num_beams above 1"),
        ({"penalty_alpha": 0.5, "num_beams": 2}, "penalty_alpha means contrastive search"),
        ({"cache_implementation": "static", "use_cache": False}, "needs use_cache=True"),
        ({"stop_strings": "x"}, "give tokenizer= too"),
        ({"max_length": 4}, "a prompt has 4 tokens and max_length=4 counts them: set max_new_tokens"),
        ({"max_new_tokens": 58}, "up to 62 tokens, the model has positions for 60: ask for at most max_new_tokens=57"),
        ({"min_new_tokens": 9, "max_new_tokens": 3}, "ask for 9 new tokens, there may be 3"),
        ({"min_length": 9, "max_new_tokens": 3}, "ask for 5 new tokens, there may be 3"),
        ({"attention_mask": torch.zeros(1, 4)}, "a prompt is padding only"),
        ({"attention_mask": torch.ones(1, 3)}, r"attention_mask must be \(B, T\) = \(1, 4\), got \(1, 3\)"),
        ({"input_ids": IDS}, "give inputs or input_ids"),
        ({"suppress_tokens": list(range(23))}, "no token is left to choose"),
        ({"guidance_scale": 2.0, "negative_prompt_ids": torch.ones(2, 3)}, "of as many prompts, 1"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(pair: Callable[..., Any], call: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        pair("bert").ours.generate(IDS, **{"max_new_tokens": None, **call})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        *(({name: value}, f"{name} must be of ids below vocab_size=23") for name, value in {
            "forced_bos_token_id": 23, "forced_eos_token_id": [2, 23], "suppress_tokens": [23], "begin_suppress_tokens": [23],
            "bad_words_ids": [[4, 23]], "sequence_bias": {(23,): 1.0}}.items()),
        ({"force_words_ids": [[5], [[6], [23]]], "num_beams": 2}, "force_words_ids must be of ids below"),
        ({"stopping_criteria": lambda ids, scores: True}, "stopping_criteria must be a list of functions"),
        ({"stopping_criteria": [lambda ids, scores: "x"]}, r"must return True, False, or \(N\) bool, got 'x'"),
        ({"stopping_criteria": [lambda ids, scores: torch.ones(3)]}, "must return True, False, or"),
        ({"logits_processor": lambda ids, scores: scores}, "logits_processor must be a list of functions"),
        ({"logits_processor": [lambda ids, scores: None]}, r"must return scores \(N, V\) = \(1, 23\), got NoneType"),
        ({"logits_processor": [lambda ids, scores: scores[:, 1:]]}, r"must return scores \(N, V\) = \(1, 23\), got .*22"),
        ({"prefix_allowed_tokens_fn": lambda prompt, ids: None}, "must list one token at least .* for prompt 0 it gave None"),
        ({"prefix_allowed_tokens_fn": lambda prompt, ids: [4, 23]}, "ids below 23; for prompt 0 it gave"),
        ({"generation_config": {"top_p": 0.5}}, "generation_config must be a GenerationConfig"),
        ({"tokenizer": "bert", "stop_strings": "x"}, "tokenizer must be a tokenizer, which decodes"),
        ({"past_key_values": ((1, 2),)}, "past_key_values must be past_key_values of an output"),
        ({"generator": 3, "do_sample": True}, "generator must be a torch.Generator"),
        ({"inputs_embeds": [[1.0]]}, "inputs_embeds must be a tensor"),
        ({"negative_prompt_ids": [[3]], "guidance_scale": 2.0}, "negative_prompt_ids must be a tensor"),
    ],
)  # fmt: skip
def test_what_a_call_gives_besides(pair: Callable[..., Any], call: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        pair("bert").ours.generate(IDS, **{"max_new_tokens": 3, **call})


def test_inputs_that_are_none(pair: Callable[..., Any]):
    model = pair("bert").ours
    with pytest.raises(ValueError, match=r"input_ids must be \(B, T\), with one token at least, got \(4,\)"):
        model.generate(IDS[0])
    with pytest.raises(ValueError, match=r"input_ids must be in \[0, vocab_size=23\), got 23"):
        model.generate(IDS + 15)
    with pytest.raises(TypeError, match="no argument 'max_tokens'"):
        model.generate(IDS, max_tokens=3)
    with pytest.raises(TypeError, match="did you mean num_beams?"):
        model.generate(IDS, num_beam=3)
    with pytest.raises(ValueError, match=r"input_ids must be a tensor: call generate\(\*\*inputs\)"):
        model.generate({"input_ids": IDS})
    with pytest.raises(ValueError, match="a prompt has 61 tokens, the model has positions for 60: cut it"):
        model.generate(IDS[:, :1].expand(1, 61))
    with pytest.raises(ValueError, match="no bos_token_id to begin with: give input_ids"):
        model.generate(bos_token_id=None)
    assert model.generate(max_new_tokens=3)[0, 0] == 0
    with pytest.raises(NotSupportedError, match="token_healing=True is not offered: leave the last token"):
        model.generate(IDS, token_healing=True)
    with pytest.raises(ValueError, match="ended at different lengths, and there is no pad_token_id"):
        model.generate(
            IDS.expand(2, 4), pad_token_id=None, eos_token_id=None, max_new_tokens=3,
            stopping_criteria=[lambda ids, scores: torch.tensor([True, False])[: len(ids)]],
        )  # fmt: skip


def test_the_longest_text_that_there_are_positions_for(pair: Callable[..., Any]):
    assert pair("bert").ours.generate(IDS, max_new_tokens=57, eos_token_id=None).shape == (1, 61)
    assert pair("bert").ours.generate(IDS.expand(2, 4).repeat(1, 14), eos_token_id=None).shape == (
        2,
        61,
    )  # 20 do not fit


def test_settings_without_effect_are_told(pair: Callable[..., Any], caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "minitrans"):
        pair("bert").ours.generate(IDS, temperature=0.5, top_k=3, length_penalty=2.0)
    assert [record.args for record in caplog.records] == [
        ("temperature", "do_sample=True"), ("top_k", "do_sample=True"), ("length_penalty", "num_beams above 1"),
    ]  # fmt: skip


def test_a_file_is_read_kept_and_written(pair: Callable[..., Any], tmp_path: Path):
    pair("bert").reference.save_pretrained(tmp_path / "theirs")
    said = {
        "max_new_tokens": 5,
        "num_beams": 1,
        "eos_token_id": [2, 3],
        "sequence_bias": [[[4], -1.0]],
        "what": {"is": "this"},
    }
    (tmp_path / "theirs" / "generation_config.json").write_text(json.dumps({**said, "transformers_version": "5"}))
    model = minitrans.BertLMHeadModel.from_pretrained(tmp_path / "theirs")
    assert model.generation_config.to_dict() == said
    assert (model.generation_config.max_new_tokens, model.generation_config.top_p, model.generation_config.what) == (
        5,
        None,
        {"is": "this"},
    )
    assert model.generate(IDS, eos_token_id=None).shape == (1, 9)
    model.generation_config.max_new_tokens = 3
    assert model.generate(IDS, eos_token_id=None).shape == (1, 7)
    assert model.generate(IDS, GenerationConfig(max_new_tokens=2), eos_token_id=None).shape == (1, 6)
    assert model.generate(IDS, max_length=5).shape == (1, 5)
    model.save_pretrained(tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "generation_config.json").read_text()) == {**said, "max_new_tokens": 3}
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path / "ours")
    assert (theirs.max_new_tokens, theirs.eos_token_id) == (3, [2, 3])
    again = GenerationConfig.from_pretrained(tmp_path / "ours")
    assert again == model.generation_config == copy.deepcopy(again) == pickle.loads(pickle.dumps(again))
    loaded = minitrans.BertLMHeadModel.from_pretrained(
        tmp_path / "ours", generation_config=GenerationConfig(max_new_tokens=1)
    )
    assert loaded.generate(IDS).shape == (1, 5)
    before = (tmp_path / "ours" / "model.safetensors").stat().st_mtime_ns
    model.save_pretrained(tmp_path / "ours")
    assert sorted(each.name for each in (tmp_path / "ours").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    assert (tmp_path / "ours" / "model.safetensors").stat().st_mtime_ns >= before


def test_a_file_that_cannot_be(pair: Callable[..., Any], tmp_path: Path):
    pair("bert").ours.save_pretrained(tmp_path)
    for content, words in (
        ('{"top_p": 7}', "top_p must be a number in"),
        ("[]", "expected a JSON object"),
        ("{", "expected JSON"),
    ):
        (tmp_path / "generation_config.json").write_text(content)
        with pytest.raises(CheckpointError, match=f"generation_config.json: .*{words}"):
            minitrans.BertLMHeadModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot hold every setting"):
        GenerationConfig(what=object()).to_json_string()


def test_without_a_file_the_configuration_speaks(pair: Callable[..., Any]):
    model = pair("bert").ours
    assert model.generation_config.to_dict() == {
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "use_cache": True,
    }
    with pytest.raises(AttributeError, match="no setting 'max_tokens'"):
        _ = model.generation_config.max_tokens


def test_what_a_call_does_can_be_asked(pair: Callable[..., Any]):
    model = pair("bert").ours
    told = model.explain_generation(IDS, do_sample=True, top_p=0.5, repetition_penalty=1.2, temperature=0.3)
    assert told == ["repetition_penalty", "temperature", "top_k", "top_p", "sample"]
    assert model.can_generate()
    assert Settings().keep == 1
