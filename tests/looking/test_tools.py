"""What stands on `look`: each against its definition, computed another way."""

from __future__ import annotations

import pytest
import torch

import minitrans
from minitrans.looking import look
from minitrans.looking.attribution import attribution_patching, gradient_times_input, integrated_gradients
from minitrans.looking.heads import head_importance, head_statistics, least_important, norm_based, rollout
from minitrans.looking.lens import Lens
from minitrans.looking.patching import patch
from minitrans.looking.similarity import cka
from tests.looking.conftest import SIZES


def texts(seed: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 37, (2, 7), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    model = minitrans.BertForSequenceClassification(minitrans.BertConfig(**SIZES)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def first_logit(output) -> torch.Tensor:
    return output.logits[:, 0]


@pytest.mark.parametrize("point", ["resid_post", "resid_mid", "mlp_out"])
def test_all_of_another_text_gives_its_answer(classifier, point):
    mine, other = texts(1), texts(2)
    sweep = patch(classifier, mine, other, point, lambda out: out.logits[:, 0].sum(), by="all")
    assert sweep.values.shape == (2, 1)
    if point == "resid_post":  # nothing of the text is left behind a layer that is written whole
        assert sweep.values.flatten().tolist() == [sweep.full] * 2
    by_token = patch(classifier, mine, other, point, lambda out: out.logits[:, 0].sum())
    assert by_token.values.shape == (2, 7)
    with look(classifier, point) as seen:
        classifier(**other)

    def written(x):
        x = x.clone()
        x[:, 3] = seen[point, 0][:, 3]
        return x

    with torch.no_grad(), look(classifier, edit={(point, 0): written}):
        expected = classifier(**mine).logits[:, 0].sum()
    assert by_token.values[0, 3] == pytest.approx(float(expected), rel=1e-13)
    with pytest.raises(ValueError, match="as many tokens"):
        patch(classifier, mine, {"input_ids": other["input_ids"][:, :5]}, point, lambda out: 0.0)
    with pytest.raises(ValueError, match="has no heads"):
        patch(classifier, mine, other, point, lambda out: 0.0, by="heads")


def test_integrated_gradients_add_up(classifier):
    found = integrated_gradients(classifier, texts(1), first_logit)
    assert found.gap.abs().max() < 1e-6
    assert found.tokens.abs().max() > 0.01
    assert (found.tokens[1, 5:] == 0).all()  # nobody looks at padding
    rough = integrated_gradients(classifier, texts(1), first_logit, steps=2)
    assert rough.gap.abs().max() > found.gap.abs().max()
    with pytest.raises(ValueError, match="evaluation mode"):
        integrated_gradients(classifier.train(), texts(1), first_logit)


def test_attribution_patching_is_the_slope_of_patching(classifier):
    mine, other = texts(1), texts(2)
    small = {"other": 1e-5}
    with torch.no_grad(), look(classifier, "resid_post") as theirs:
        classifier(**other)
    slopes = attribution_patching(classifier, mine, other, "resid_post", first_logit)

    def towards(x, sign):
        x = x.clone()
        x[:, 2] += sign * small["other"] * (theirs["resid_post", 0][:, 2] - x[:, 2])
        return x

    ends = []
    for sign in (1, -1):
        with torch.no_grad(), look(classifier, edit={("resid_post", 0): lambda x, s=sign: towards(x, s)}):
            ends.append(first_logit(classifier(**mine)))
    torch.testing.assert_close(slopes[0, :, 2], (ends[0] - ends[1]) / (2 * small["other"]), atol=1e-7, rtol=1e-5)
    by_input = gradient_times_input(classifier, mine, first_logit)
    assert by_input.shape == (2, 7)


def test_rollout_rows_sum_to_one_and_statistics_are_those_of_the_pattern(classifier):
    batch = texts(1)
    rolled = rollout(classifier, batch)
    torch.testing.assert_close(rolled.sum(-1), torch.ones(2, 2, 7, dtype=torch.float64), atol=1e-14, rtol=0)
    with torch.no_grad():
        attentions = classifier(**batch, output_attentions=True).attentions
    first = (attentions[0].mean(1) + torch.eye(7, dtype=torch.float64)) / 2
    torch.testing.assert_close(rolled[1], (attentions[1].mean(1) + torch.eye(7, dtype=torch.float64)) / 2 @ first)
    found = head_statistics(classifier, batch)
    rows = [attentions[1][0, 1, t] for t in range(7)] + [attentions[1][1, 1, t] for t in range(5)]
    assert found["entropy"][1, 1] == pytest.approx(sum(float(-(r[r > 0] * r[r > 0].log()).sum()) for r in rows) / 12)
    assert found["first"][1, 1] == pytest.approx(sum(float(r[0]) for r in rows) / 12)
    lengths = norm_based(classifier, batch)
    with look(classifier, ["v", "pattern"]) as seen:
        classifier(**batch)
    matrix = classifier.bert.encoder.layer[1].attention.output.weight
    brought = seen["pattern", 1][0, 1, 2, 3] * (matrix[:, 6:] @ seen["v", 1][0, 3, 1])
    assert lengths[1, 0, 1, 2, 3] == pytest.approx(float(brought.detach().norm()))


def test_importance_is_the_gradient_of_the_head_mask(classifier):
    batch, labels = texts(1), torch.tensor([0, 1])
    found = head_importance(classifier, [batch], lambda out: torch.nn.functional.cross_entropy(out.logits, labels))
    mask = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    classifier(**batch, head_mask=mask, labels=labels).loss.backward()
    torch.testing.assert_close(found, mask.grad.abs(), atol=1e-12, rtol=1e-10)
    gone = least_important(found, 2)
    assert sorted(gone) == [0, 1]
    assert all(len(heads) == 1 for heads in gone.values())
    ablated = classifier(
        **batch, head_mask=1 - torch.nn.functional.one_hot(torch.tensor([gone[0][0], gone[1][0]]), 2).double()
    )
    classifier.prune_heads(gone)
    torch.testing.assert_close(classifier(**batch).logits, ablated.logits, atol=1e-13, rtol=1e-12)
    with pytest.raises(ValueError, match="at most 2 can go"):
        least_important(found, 3)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_the_last_lens_is_the_model_and_tuning_brings_the_others_nearer(kind):
    torch.manual_seed(0)
    if kind == "bert":
        model = minitrans.BertForMaskedLM(minitrans.BertConfig(**SIZES)).double().eval()
    else:
        sizes = {"vocab_size": 37, "n_embd": 12, "n_layer": 2, "n_head": 2, "n_positions": 24, "pad_token_id": 1}
        model = minitrans.GPT2LMHeadModel(minitrans.GPT2Config(**sizes)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    before = [parameter.clone() for parameter in model.parameters()]
    lens, batch = Lens(model), texts(3)
    readings = lens(**batch)
    assert torch.equal(readings[-1], model(**batch).logits)
    losses = lens.tune([batch] * 60, rate=1e-2)
    assert losses[-1] < losses[0] / 2
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    with pytest.raises(ValueError, match="no one stack"):
        Lens(model.base_model)


def test_cka_knows_rotations_and_strangers():
    torch.manual_seed(0)
    x = torch.randn(400, 5, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    assert float(cka(x, 3 * x @ turn + 1)) == pytest.approx(1, abs=1e-12)
    assert float(cka(x, torch.randn(400, 7, dtype=torch.float64))) < 0.05  # expected near D / N
    with pytest.raises(ValueError, match="N of at least 2"):
        cka(x, x[:3])
