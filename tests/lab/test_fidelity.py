"""Fidelity and diagnostics against the same figures made by hand."""

from __future__ import annotations

import math

import pytest
import torch

from minitrans.lab.bench import Bench
from minitrans.lab.capture import heads_again, layer_calls, queries_keys_values
from minitrans.lab.diagnostics import diagnostics
from minitrans.lab.fidelity import fidelity
from minitrans.lab.passages import passages
from minitrans.lab.specs import read_subjects

SIZE = {"texts": 3, "length": 11}


def _subject(text: str):
    return read_subjects([text])[0]


def test_the_exact_attention_is_exact(bench: Bench):
    found = fidelity(bench, _subject("full"), 0, **SIZE)
    assert found["error"] == found["ratio"] == 0.0
    assert found["divergence"] == pytest.approx(0.0, abs=1e-6)
    assert found["recall"] == 1.0
    assert 0.01 < found["floor"] < 1


def test_the_mean_of_all_values_is_the_floor(bench: Bench):
    found = fidelity(bench, _subject('{"name": "softcap", "cap": 1e-6}'), 0, **SIZE)
    assert found["ratio"] == pytest.approx(1.0, abs=1e-4)
    assert torch.tensor(found["heads"]).allclose(torch.ones(bench.layers, bench.attentions[0].num_heads), atol=1e-4)
    grouped = fidelity(bench, _subject('{"name": "grouped_query", "groups": 1}'), 0, **SIZE)
    assert grouped["floor"] == found["floor"]  # that of the exact model, whatever becomes of its heads
    assert grouped["ratio"] > 0.01


def test_figures_by_hand(bench: Bench):
    spec = '{"name": "sliding_window", "window": 2}'
    found = fidelity(bench, _subject(spec), 0, top=2, **SIZE)
    calls = layer_calls(bench, passages(bench, **{"count": SIZE["texts"], "length": SIZE["length"]}))
    errors, divergences, recalls = [], [], []
    for (query, key, value), exact in zip(queries_keys_values(bench, calls), heads_again(bench, calls), strict=True):
        scores = query @ key.mT * query.shape[-1] ** -0.5
        far = (torch.arange(11)[:, None] - torch.arange(11)).abs() > 1
        p, q = scores.softmax(-1), scores.masked_fill(far, -torch.inf).softmax(-1)
        torch.testing.assert_close((p @ value).transpose(1, 2), exact.output)
        errors.append(float((q @ value - p @ value).norm() / (p @ value).norm()))
        divergences.append(float((p * (p / q.clamp(min=1e-12)).log()).sum(-1).mean()))
        best = [[set(row.topk(2).indices.tolist()) for row in x.flatten(0, -2)] for x in (p, q)]
        recalls.append(sum(len(one & two) / 2 for one, two in zip(*best, strict=True)) / len(best[0]))
    assert found["errors"] == pytest.approx(errors, rel=1e-4)
    assert found["divergence"] == pytest.approx(sum(divergences) / len(divergences), rel=1e-4)
    assert found["recall"] == pytest.approx(sum(recalls) / len(recalls), abs=1e-6)


def test_what_has_no_probabilities_has_no_divergence(bench: Bench):
    for spec in ("fnet", '{"name": "linformer", "rank": 4}'):
        found = fidelity(bench, _subject(spec), 0, **SIZE)
        assert found["divergence"] is None
        assert found["ratio"] > 0.01


def test_diagnostics_by_hand(bench: Bench):
    found = diagnostics(bench, _subject("full"), 0, **SIZE)
    calls = layer_calls(bench, passages(bench, 3, 11))
    for layer, (query, key, _) in enumerate(queries_keys_values(bench, calls)):
        scores = query @ key.mT * query.shape[-1] ** -0.5
        p = scores.softmax(-1)
        assert found["logit"][layer] == pytest.approx(scores.abs().amax((0, 2, 3)).tolist(), rel=1e-4)
        assert found["first"][layer] == pytest.approx(p[..., 0].mean((0, 2)).tolist(), rel=1e-4)
        assert found["last"][layer] == pytest.approx(p[..., -1].mean((0, 2)).tolist(), rel=1e-4)
        entropy = -(p * p.log()).sum(-1)
        assert found["entropy"][layer] == pytest.approx(entropy.mean((0, 2)).tolist(), rel=1e-4)
        assert found["support"][layer] == pytest.approx(entropy.exp().mean((0, 2)).tolist(), rel=1e-4)
    assert found["dead"] == [[0.0] * 3] * bench.layers


def test_diagnostics_of_others(bench: Bench):
    uniform = diagnostics(bench, _subject('{"name": "softcap", "cap": 1e-6}'), 0, **SIZE)
    assert uniform["entropy"][0] == pytest.approx([math.log(11)] * 3, abs=1e-4)
    assert diagnostics(bench, _subject("fnet"), 0, **SIZE)["entropy"] == [None] * bench.layers
    dead = diagnostics(bench, _subject("softpick"), 0, **SIZE)["dead"]
    assert all(0.0 <= share <= 1.0 for layer in dead for share in layer)


def test_passages_are_of_one_length(bench: Bench):
    fields = passages(bench, 3, 11)
    assert fields["input_ids"].shape == (3, 11)
    assert bool(fields["attention_mask"].all())
    with pytest.raises(ValueError, match="at most"):
        passages(bench, 1, 1000)
    with pytest.raises(ValueError, match="words"):
        passages(bench, 1000, 11)
