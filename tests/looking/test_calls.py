"""What a user asks for: names, layers, heads, rows, gradients, files, generations; and what he gets who asks for what is not there."""

from __future__ import annotations

import pytest
import torch

import minitrans
from minitrans.looking import look
from tests.looking.conftest import SIZES, tiny


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    model = minitrans.BertForSequenceClassification(minitrans.BertConfig(**SIZES)).double().eval()
    ids = torch.randint(5, 37, (3, 7))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return model, {"input_ids": ids, "attention_mask": mask}


def test_names_layers_heads_and_rows(classifier):
    model, batch = classifier
    with look(model, ["resid_*", ("pattern", -1), "logits"], layers=[0]) as seen:
        logits = model(**batch).logits
    assert {name for name, _ in seen} == {
        "resid_pre", "resid_mid", "resid_mid_norm", "resid_post_sum", "resid_post", "pattern", "logits",
    }  # fmt: skip
    assert {layer for name, layer in seen if name.startswith("resid")} == {0}
    assert torch.equal(seen["logits"], logits)
    with look(model, "pattern") as whole, look(model, "pattern", heads=[1], rows=[2, 0]) as part:
        model(**batch)
    assert whole.stack("pattern").shape == (2, 3, 2, 7, 7)
    assert torch.equal(part["pattern", 1], whole["pattern", 1][[2, 0]][:, [1]])
    assert torch.equal(part["pattern"][0], whole["pattern", 0][[2, 0]][:, [1]])


def test_an_edit_of_chosen_heads_and_rows_leaves_the_others(classifier):
    model, batch = classifier
    with look(model, ["z", "head_out"], layers=[0]) as before:
        model(**batch)
    with look(model, ["z", "attn_out"], layers=[0], edit={"z": torch.zeros_like}, heads=[1], rows=[0]) as _:
        model(**batch)
    with (
        look(model, edit={("z", 0): torch.zeros_like}, heads=[1], rows=[0]),
        look(model, ["z", ("attn_out", 0)]) as after,
    ):
        model(**batch)
    expected = before["z", 0].clone()
    expected[0, :, 1] = 0
    assert torch.equal(after["z", 0], expected)
    whole = before["head_out", 0].sum(2) + model.bert.encoder.layer[0].attention.output.bias
    whole[0] -= before["head_out", 0][0, :, 1]
    torch.testing.assert_close(after["attn_out", 0], whole, atol=1e-14, rtol=1e-13)
    # the factor of a head, in the forward's own words
    mask = torch.ones(2, 2, dtype=torch.float64)
    mask[0, 1] = 0
    with look(model, edit={("z", 0): torch.zeros_like}, heads=[1]):
        ablated = model(**batch).logits
    torch.testing.assert_close(ablated, model(**batch, head_mask=mask).logits, atol=1e-14, rtol=1e-13)


def test_gradients_are_those_of_the_loss(classifier):
    model, batch = classifier
    with look(model, ["scores", "pattern", "z", "resid_mid"], gradients=True) as seen:
        model(**batch, labels=torch.tensor([0, 1, 1])).loss.backward()
    small = 1e-6
    for name in ("pattern", "z", "resid_mid"):
        where = (0,) * seen[name, 0].dim()

        def moved(x: torch.Tensor, by: float, where: tuple[int, ...] = where) -> torch.Tensor:
            x = x.clone()
            x[where] += by
            return x

        losses = []
        for sign in (1, -1):
            with torch.no_grad(), look(model, edit={(name, 0): lambda x, s=sign, m=moved: m(x, s * small)}):
                losses.append(model(**batch, labels=torch.tensor([0, 1, 1])).loss)
        slope = (losses[0] - losses[1]) / (2 * small)
        # central differences: the error is of the order small², and rounding over small
        torch.testing.assert_close(seen.grad(name, 0)[where], slope, atol=1e-9, rtol=1e-5)
    with look(model, "z") as plain, torch.no_grad():
        model(**batch)
    with pytest.raises(RuntimeError, match="gradients=True"):
        plain.grad("z", 0)


def test_values_go_to_files(classifier, tmp_path):
    model, batch = classifier
    with look(model, "pattern") as kept, look(model, "pattern", to=tmp_path / "seen") as filed:
        model(**batch)
    assert sorted(file.name for file in (tmp_path / "seen").iterdir()) == [
        "pattern.0.0.safetensors", "pattern.1.0.safetensors",
    ]  # fmt: skip
    assert torch.equal(filed["pattern", 1], kept["pattern", 1])


def test_every_step_of_a_generation_is_seen():
    model = minitrans.GPT2LMHeadModel(
        minitrans.GPT2Config(
            vocab_size=37, n_embd=12, n_layer=2, n_head=2, n_positions=24, pad_token_id=1, eos_token_id=1
        )
    ).eval()
    prompt = torch.tensor([[5, 6, 7]])
    expected = model.generate(prompt, max_new_tokens=4, min_new_tokens=4)
    with look(model, "pattern") as seen:
        assert torch.equal(model.generate(prompt, max_new_tokens=4, min_new_tokens=4), expected)
    assert [tuple(each.shape[2:]) for each in seen.calls("pattern", 1)] == [(3, 3), (1, 4), (1, 5), (1, 6)]


def test_both_halves_of_a_pair_have_names():
    model, batch = tiny("bart")
    with look(model, ["encoder.pattern", "decoder.cross_pattern"]) as seen:
        model(**batch)
    assert seen["encoder.pattern", 0].shape[2:] == (8, 8)
    assert seen["decoder.cross_pattern", 2].shape[2:] == (6, 8)


@pytest.mark.parametrize("attention", ["sigmoid", "linear", "sliding_window", "talking_heads"])
def test_swapped_attention_is_seen_as_it_is(classifier, attention):
    model, batch = classifier
    model.set_attention(attention if attention != "sliding_window" else {"name": attention, "window": 2})
    try:
        before, attentions = model(**batch), model(**batch, output_attentions=True).attentions
        with look(model, "*") as seen:
            after = model(**batch)
        assert torch.equal(before.logits, after.logits)
        if attention != "talking_heads":  # whose `finish` mixes the heads of what the softmax gave
            torch.testing.assert_close(seen["pattern", 0], attentions[0], atol=1e-15, rtol=1e-12)
        assert (("scores", 0) in seen) == (attention == "sliding_window")
    finally:
        model.set_attention("full")


def test_a_name_of_another_tool_that_is_true_of_pre_norm_blocks_alone():
    model, batch = tiny("gpt2")
    with look(model, "blocks.1.hook_resid_post") as seen:
        model(**batch)
    assert set(seen) == {("resid_post", 1)}
    with pytest.raises(ValueError, match="does not mean here"), look(model, "blocks.1.hook_normalized_resid_post"):
        pass


def test_names_of_another_tool(classifier):
    model, batch = classifier
    names = ["blocks.1.attn.hook_pattern", "blocks.*.hook_resid_mid", "blocks.0.hook_normalized_resid_post"]
    with look(model, names) as seen:
        model(**batch)
    assert set(seen) == {("pattern", 1), ("resid_mid", 0), ("resid_mid", 1), ("resid_post", 0)}
    with pytest.raises(ValueError, match="say resid_post_sum or resid_post"), look(model, "blocks.0.hook_resid_post"):
        pass
    with pytest.raises(ValueError, match="nearest name that does is 'hook_z'"), look(model, "blocks.0.attn.hook_zz"):
        pass


WRONG = {
    "an unknown name": ({"points": "patern"}, "nearest is 'pattern'"),
    "a point of other models": ({"points": "final_norm"}, "no block of this model has 'final_norm'"),
    "a layer too far": ({"points": "z", "layers": [2]}, "layers are 0 to 1"),
    "a layer before the first": ({"points": ("z", -3)}, "layers are 0 to 1"),
    "no name": ({"points": [3]}, "a point is a name"),
    "heads of what has none": ({"edit": {"resid_mid": torch.clone}, "heads": [0]}, "is not of a head"),
    "another shape": ({"edit": {"z": lambda x: x[:1]}}, r"an edit of 'z' must return \(3, 7, 2, 6\)"),
    "no tensor": ({"edit": {"z": lambda x: None}}, "got NoneType"),
    "gradients beside the model": ({"points": "head_out", "gradients": True}, "look at z or attn_out"),
    "a head that is not there": ({"points": "z", "heads": [2]}, "heads are 0 to 1"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_there_is_refused_and_leaves_nothing(classifier, what):
    model, batch = classifier
    before, (words, message) = model(**batch).logits, WRONG[what]
    with pytest.raises((ValueError, TypeError), match=message), look(model, **words):
        model(**batch)
    assert not any(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    assert torch.equal(model(**batch).logits, before)


def test_a_point_that_no_call_came_past_is_told(classifier):
    with (
        pytest.raises(ValueError, match="no call of the model came past pattern 0, pattern 1"),
        look(classifier[0], "pattern"),
    ):
        pass


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # torch imports it to compile
def test_models_that_cannot_be_looked_into(classifier):
    model, _batch = classifier
    with pytest.raises(ValueError, match="no stack of blocks"), look(torch.nn.Linear(2, 2), "z"):
        pass
    with pytest.raises(ValueError, match="compiled"), look(torch.compile(model), "z"):
        pass
    model.train().gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="gradient_checkpointing_disable"), look(model, "z"):
        pass
    model.eval().gradient_checkpointing_disable()
