"""Healing: it learns, it touches what it says, it leaves the model as it was, and the control is the exact model."""

from __future__ import annotations

import pytest
import torch

from minitrans.lab.bench import Bench
from minitrans.lab.capture import again, batch_of, layer_calls
from minitrans.lab.heal import heal
from minitrans.lab.specs import read_subjects

SHORT = {"transfer_steps": 24, "tune_steps": 12, "batch": 4}


def test_healing_brings_the_model_nearer_and_leaves_it_as_it_was(bench: Bench):
    before = {name: tensor.clone() for name, tensor in bench.encoder.model.state_dict().items()}
    found = heal(bench, read_subjects(["hedgehog"])[0], 0, points=2, rate=1e-3, **SHORT)
    assert [(point["stage"], point["step"]) for point in found["curve"]] == [
        ("swap", 0), ("transfer", 12), ("transfer", 24), ("tune", 6), ("tune", 12)
    ]  # fmt: skip
    swapped, transfer, _, tune = found["curve"][0], *found["curve"][1:4]
    assert found["curve"][2]["loss"] < transfer["loss"]
    assert found["curve"][4]["loss"] < tune["loss"]
    assert found["score"] != swapped["score"]
    heads, width = bench.encoder.model.config.num_attention_heads, bench.attentions[0].head_width
    assert found["touched"]["transfer"] == bench.layers * 2 * heads * width * width
    idle = [name for name in before if name.startswith("pooler.") or "word_embeddings" in name]
    own = sum(tensor.numel() for name, tensor in before.items() if name not in idle)
    assert found["touched"]["tune"] == own + found["touched"]["transfer"]
    after = bench.encoder.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(parameter.requires_grad for parameter in bench.encoder.model.parameters())


def test_what_has_no_parameters_heals_by_the_projections(bench: Bench):
    found = heal(bench, read_subjects(["sigmoid"])[0], 0, rate=1e-3, **SHORT)
    width = bench.encoder.model.config.hidden_size
    assert found["touched"]["transfer"] == bench.layers * 4 * (width * width + width)
    assert found["cosine"] > float((bench.exact[1] * _swapped(bench)).sum(-1).mean())


def _swapped(bench: Bench) -> torch.Tensor:
    with bench.swapped("sigmoid"):
        return bench.score()[1]


def test_the_exact_model_has_nothing_to_learn_from_itself_but_from_judgements(bench: Bench):
    full = read_subjects(["full"])[0]
    found = heal(bench, full, 0, **SHORT)
    assert found["touched"]["transfer"] == 0
    assert found["score"] == pytest.approx(found["exact"], abs=0.5)
    assert found["without"] == found["score"]
    taught = heal(bench, full, 0, objective="labels", rate=1e-3, **SHORT)
    assert taught["score"] > found["exact"] + 1
    assert taught["curve"][-1]["loss"] > 0


def test_seeds_give_other_orders_and_the_same_seed_the_same_numbers(bench: Bench):
    subject = read_subjects(["hedgehog"])[0]
    one, same, other = (heal(bench, subject, seed, transfer_steps=4, tune_steps=4, batch=4) for seed in (0, 0, 1))
    assert one["cosine"] == same["cosine"]
    assert one["cosine"] != other["cosine"]


def test_layers_are_given_again_what_they_were_given(bench: Bench):
    calls = layer_calls(bench, batch_of(bench, ["the cat sat", "paris"]))
    assert len(calls) == bench.layers
    for found, call in zip(again(bench, calls), calls, strict=True):
        assert torch.equal(found, call.output)
    with bench.swapped("value_residual"):  # layers that speak to each other do so in this pass
        for found, call in zip(again(bench, calls), calls, strict=True):
            torch.testing.assert_close(found, call.output)


def test_training_in_bfloat16_goes_the_same_way(bench: Bench):
    subject, short = read_subjects(["hedgehog"])[0], {"transfer_steps": 12, "tune_steps": 6, "batch": 4, "rate": 1e-3}
    full, low = (heal(bench, subject, 0, precision=precision, **short) for precision in ("float32", "bfloat16"))
    assert low["cosine"] == pytest.approx(full["cosine"], abs=0.02)
    assert low["curve"][1]["loss"] != full["curve"][1]["loss"]


def test_another_objective_is_refused(bench: Bench):
    with pytest.raises(ValueError, match="float32 or bfloat16"):
        heal(bench, read_subjects(["sink"])[0], 0, precision="int8")
    with pytest.raises(ValueError, match="vectors or labels"):
        heal(bench, read_subjects(["sink"])[0], 0, objective="loss")


def test_a_branch_is_taken_away_afterwards(bench: Bench):
    subject = read_subjects(['{"name": "lolcats", "window": 2}'])[0]
    found = heal(bench, subject, 0, ablate="log_factor=-60", **SHORT)
    local = heal(
        bench, read_subjects(['{"name": "sliding_window", "window": 2}'])[0], 0, transfer_steps=0, tune_steps=0
    )
    assert found["ablated"] not in (found["score"], found["without"])
    untrained = heal(bench, subject, 0, ablate="log_factor=-60", transfer_steps=0, tune_steps=0)
    assert untrained["ablated"] == pytest.approx(local["score"], abs=1e-6)  # without its far keys it is a window
    with pytest.raises(ValueError, match="log_factor"):
        heal(bench, subject, 0, ablate="gate=0", transfer_steps=0, tune_steps=0)
