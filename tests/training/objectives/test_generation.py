"""Span corruption and denoising: nothing is lost, and sizes are those of the papers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from minitrans.models.bart import BartConfig, BartForConditionalGeneration
from minitrans.models.t5 import T5Config, T5ForConditionalGeneration
from minitrans.training.objectives import denoising, span_corruption
from minitrans.training.objectives.denoising import Damage, Denoising
from minitrans.training.objectives.span_corruption import SpanCorruption, noise_mask, raw_length

END, SENTINELS, MASK = 1, list(range(999, 899, -1)), 3


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def t5() -> Any:
    return T5ForConditionalGeneration(T5Config(vocab_size=1000, d_model=8, d_ff=12, num_layers=1, num_heads=2, d_kv=4))


@pytest.fixture(scope="module")
def bart() -> Any:
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=50,
            d_model=8,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=12,
            decoder_ffn_dim=12,
            max_position_embeddings=64,
        )
    )


def test_the_figure_of_the_paper(t5: Any, monkeypatch: pytest.MonkeyPatch):
    """Thank you [for inviting] me to your party [last] week ."""
    noise = torch.tensor([0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0]).bool()
    monkeypatch.setattr(span_corruption, "noise_mask", lambda *_: noise)
    made = SpanCorruption(t5, SENTINELS, END).prepare({"input_ids": list(range(10, 21))}, seeded(0))
    assert made["input_ids"].tolist() == [10, 11, 999, 14, 15, 16, 17, 998, 19, 20, END]
    assert made["labels"].tolist() == [999, 12, 13, 998, 18, 997, END]


@pytest.mark.parametrize("length", [2, 3, 7, 100, 568])
def test_source_and_target_hold_the_text(length: int, t5: Any):
    objective, ids = SpanCorruption(t5, SENTINELS, END), torch.arange(length) + 10
    for seed in range(5):
        made = objective.prepare({"input_ids": ids.tolist()}, seeded(seed))
        spans: dict[int, list[int]] = {}
        for token in made["labels"].tolist()[:-1]:
            if token > 899:
                span = spans.setdefault(token, [])
            else:
                span.append(token)
        whole = [each for token in made["input_ids"].tolist()[:-1] for each in spans.get(token, [token])]
        assert whole == ids.tolist()


def test_sizes_are_those_of_the_paper():
    """Of published runs: sources of 512 tokens are made of 568, and targets have 114."""
    assert raw_length(512) == (568, 114)
    for length in (3, 17, 128):
        text, target = raw_length(length)
        noise = noise_mask(text, 0.15, 3.0, seeded(0))
        spans = int((noise & ~torch.cat([noise.new_zeros(1), noise[:-1]])).sum())
        assert text - int(noise.sum()) + spans + 1 == length
        assert int(noise.sum()) + spans + 1 == target
    with pytest.raises(ValueError, match="got length=2"):
        raw_length(2)


def test_every_cut_is_as_likely():
    """5 tokens in 2 spans of 3, and the 2 that stay: C(2, 1) · C(1, 1) ways."""
    seen = Counter(tuple(noise_mask(6, 0.5, 1.5, seeded(seed)).tolist()) for seed in range(900))
    assert len(seen) == 4
    assert all(abs(count - 225) < 3 * (900 * 0.25 * 0.75) ** 0.5 for count in seen.values())
    with pytest.raises(ValueError, match="needs 2 tokens"):
        noise_mask(1, 0.15, 3.0, seeded(0))


def test_texts_with_too_many_spans_are_refused(t5: Any):
    with pytest.raises(ValueError, match="5 spans need as many sentinels, there are 2"):
        SpanCorruption(t5, SENTINELS[:2], END).prepare({"input_ids": list(range(10, 110))}, seeded(0))


DAMAGE = Damage(MASK, torch.tensor([9]))
IDS = torch.randint(10, 50, (3000,), generator=seeded(0))


def test_infilling_hides_its_share_in_spans_of_poisson():
    for seed in range(3):
        made = denoising.infilling()(IDS, DAMAGE, seeded(seed))
        stays = made[made != MASK]
        assert len(IDS) - len(stays) == 900
        at = 0
        for token in stays.tolist():  # in order
            at = IDS.tolist().index(token, at) + 1
        spans = int((made == MASK).sum())
        assert abs(900 / spans - 3) < 3 * (3 / spans) ** 0.5 + 0.02
    assert denoising.infilling()(IDS[:1], DAMAGE, seeded(1)).tolist().count(MASK) >= 1
    short = [denoising.infilling(0.3, 0.5)(IDS[:4], DAMAGE, seeded(seed)) for seed in range(20)]
    assert max(map(len, short)) > 4  # a span of no token puts a mask in


def test_the_other_noises():
    masked = denoising.masking(0.2)(IDS, DAMAGE, seeded(0))
    assert torch.equal(masked[masked != MASK], IDS[masked != MASK])
    gone = denoising.deletion(0.2)(IDS, DAMAGE, seeded(0))
    for count in (int((masked == MASK).sum()), len(IDS) - len(gone)):
        assert abs(count - 600) < 3 * (3000 * 0.16) ** 0.5
    assert len(denoising.deletion(1.0)(IDS, DAMAGE, seeded(0))) == 1
    turned = denoising.rotation()(IDS, DAMAGE, seeded(1))
    start = next(at for at in range(len(IDS)) if torch.equal(IDS.roll(-at), turned))
    assert start > 0
    text = torch.tensor([10, 11, 9, 12, 9, 13, 14])
    orders = {tuple(denoising.permutation()(text, DAMAGE, seeded(seed)).tolist()) for seed in range(60)}
    parts = ((10, 11, 9), (12, 9), (13, 14))
    assert orders == {a + b + c for a in parts for b in parts for c in parts if len({a, b, c}) == 3}


def test_the_pair_writes_the_whole_text(bart: Any):
    objective = Denoising(bart, MASK, [9])
    example = {"input_ids": [0, 10, 11, 9, 12, 13, 14, 9, 2]}
    made = [objective.prepare(example, seeded(seed)) for seed in range(3)]
    for each in made:
        assert each["labels"].tolist() == example["input_ids"]
        assert each["input_ids"].tolist()[0] == 0
        assert each["input_ids"].tolist()[-1] == 2
        assert MASK in each["input_ids"].tolist()
    batch = objective.collate(made)
    assert objective.items(batch).tolist() == [27]
    assert objective.losses(bart, batch).shape == (1,)
    with pytest.raises(ValueError, match="needs a token between"):
        objective.prepare({"input_ids": [0, 2]}, seeded(0))
