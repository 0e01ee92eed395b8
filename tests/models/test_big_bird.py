"""What only BigBird has: blocks, the same in every call; a fallback that is not remembered; its own head for answers (BB1-BB3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import minitrans
from minitrans import NotSupportedError, PackedLayout

SIZES: dict[str, Any] = {
    "vocab_size": 31, "hidden_size": 12, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 10,
    "max_position_embeddings": 60, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "sep_token_id": 7,
}  # fmt: skip


def texts(length: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    mask = torch.ones(3, length, dtype=torch.long)
    mask[1, length // 2 :] = 0
    mask[2, :3] = 0
    return {"input_ids": torch.randint(8, 31, (3, length), generator=generator) * mask, "attention_mask": mask}


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize(("block", "random", "length"), [(3, 1, 22), (3, 2, 47), (4, 1, 60), (2, 3, 25), (1, 2, 40)])
def test_BB2_blocks(pair, error, training: bool, block: int, random: int, length: int) -> None:
    """Padded on both sides, of lengths that are no multiple of a block; drawn blocks are those of the reference."""
    models = pair("big_bird", "Model", **SIZES, block_size=block, num_random_blocks=random)
    inputs = texts(length)
    state = np.random.get_state()[1].copy()
    ours = models.ours.train(training)(**inputs).last_hidden_state
    assert (np.random.get_state()[1] == state).all()
    theirs = models.reference.train(training)(**inputs).last_hidden_state
    assert error(ours, theirs) <= 1e-10
    for output in (ours, theirs):
        output.square().sum().backward()
    gradients = models.gradients()
    floor = 1e-4 * max(float(gradient.abs().max()) for _, _, gradient in gradients)
    for name, mine, expected in gradients:
        assert error(mine, expected, floor) <= 1e-10, name
    assert torch.equal(models.ours(**inputs).last_hidden_state, ours)


@pytest.mark.parametrize("longest", [1024, 4096])
def test_BB2_blocks_of_texts_as_long_as_in_the_pre_training(pair, error, longest: int) -> None:
    sizes = {**SIZES, "max_position_embeddings": longest, "num_hidden_layers": 1}
    models = pair("big_bird", "Model", **sizes, block_size=64, num_random_blocks=3)
    inputs = texts(1024)
    ours, theirs = (model.train()(**inputs).last_hidden_state for model in (models.ours, models.reference))
    assert error(ours, theirs) <= 1e-10


def test_BB1_a_short_text_changes_nothing_for_the_next(pair, error) -> None:
    """The reference sees all in every text that comes after a short one."""
    models = pair("big_bird", "Model", **SIZES, block_size=3, num_random_blocks=1)
    short, long = texts(21), texts(22)
    before = models.ours.eval()(**long).last_hidden_state
    assert error(models.ours(**short).last_hidden_state, models.reference.eval()(**short).last_hidden_state) <= 1e-10
    assert torch.equal(models.ours(**long).last_hidden_state, before)
    whole = minitrans.BigBirdModel(models.config.updated(attention_type="original_full")).double().eval()
    whole.load_state_dict(models.ours.state_dict())
    assert error(whole(**long).last_hidden_state, models.reference(**long).last_hidden_state) <= 1e-10
    assert not torch.allclose(whole(**long).last_hidden_state, before)


def test_BB1_a_decoder_attends_to_all(pair, error) -> None:
    """The reference gives the memory of cross-attention to its self-attention too: what is right there is BERT's decoder."""
    fields = {**SIZES, "block_size": 3, "num_random_blocks": 1, "is_decoder": True}
    models = pair("big_bird", "ForCausalLM", **fields)
    ids, memory = texts(30)["input_ids"][:1], torch.randn(1, 5, 12, dtype=torch.float64)
    logits = models.ours.eval()(ids).logits
    assert error(logits, models.reference.eval()(ids).logits) <= 1e-10
    first = models.ours(ids[:, :20], use_cache=True)
    rest = models.ours(ids[:, 20:], past_key_values=first.past_key_values)
    assert error(torch.cat([first.logits, rest.logits], dim=1), logits) <= 1e-12
    crossing = minitrans.BigBirdForCausalLM(minitrans.BigBirdConfig(**fields, add_cross_attention=True)).double().eval()
    known = {name: value for name, value in SIZES.items() if name != "sep_token_id"}
    config = minitrans.BertConfig(**known, is_decoder=True, add_cross_attention=True, hidden_act="gelu_new")
    bert = minitrans.BertLMHeadModel(config).double().eval()
    bert.load_state_dict({name: value for name, value in crossing.state_dict().items() if "pooler" not in name})
    across = {"encoder_hidden_states": memory}
    assert error(crossing(ids, **across).logits, bert(ids, **across).logits) <= 1e-12


def test_BB3_embeddings_are_normalised_after_their_dropout(pair) -> None:
    made = minitrans.BigBirdModel(
        minitrans.BigBirdConfig(**{**SIZES, "hidden_dropout_prob": 0.5}, rescale_embeddings=True)
    )
    embedded = made.train().embeddings(texts(9)["input_ids"], torch.arange(9).expand(3, 9), None)
    torch.testing.assert_close(embedded.mean(dim=-1), torch.zeros(3, 9), rtol=0, atol=1e-6)


@pytest.mark.parametrize("given", [{}, {"question_lengths": torch.tensor([[4], [2], [6]])}], ids=["told", "given"])
def test_BB3_a_question_is_no_answer(pair, error, given: dict[str, Any]) -> None:
    models = pair("big_bird", "ForQuestionAnswering", **SIZES, block_size=3, num_random_blocks=1)
    inputs = texts(25)
    inputs["input_ids"][:, 5] = 7
    answers = {"start_positions": torch.tensor([9, 8, 24]), "end_positions": torch.tensor([12, 30, 24])}
    ours, theirs = (model(**inputs, **given, **answers) for model in (models.ours, models.reference))
    for name in ("start_logits", "end_logits", "loss"):
        assert error(ours[name], theirs[name]) <= 1e-10, name
    assert (ours.start_logits[:, 1] < -1e5).all()
    with pytest.raises(ValueError, match="questions are counted in padded batches"):
        models.ours(inputs["input_ids"].flatten(), layout=PackedLayout.from_lengths([25] * 3))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_would_not_know_which_texts_are_long(pair) -> None:
    made = pair("big_bird", "Model", **SIZES, block_size=3, num_random_blocks=1).ours.eval()
    with pytest.raises(
        NotSupportedError, match="texts of more than 21 tokens are seen in blocks, which a trace would not know"
    ):
        torch.jit.trace(made, texts(9)["input_ids"], strict=False)


def test_blocks_are_of_the_whole_batch(pair) -> None:
    made = pair("big_bird", "Model", **SIZES, block_size=3, num_random_blocks=1).ours.eval()
    with pytest.raises(NotSupportedError, match="does not go with an attention that does not support packed batches"):
        made(**texts(25), padding="remove")
    whole = minitrans.BigBirdModel(minitrans.BigBirdConfig(**SIZES, attention_type="original_full")).double().eval()
    inputs = texts(25)
    real = inputs["attention_mask"].bool()
    kept, removed = (whole(**inputs, padding=padding).last_hidden_state for padding in ("keep", "remove"))
    torch.testing.assert_close(removed[real], kept[real], rtol=0, atol=1e-12)


@pytest.mark.parametrize("attention", ["sigmoid", "rotary", {"name": "sliding_window", "window": 4}])
def test_another_attention(pair, tmp_path, attention: Any) -> None:
    """One that computes takes the place of its own; others work on its blocks."""
    made = pair("big_bird", "Model", **SIZES, block_size=3, num_random_blocks=1).ours.eval()
    inputs = texts(40)
    full = made(**inputs).last_hidden_state
    made.set_attention(attention)
    swapped = made(**inputs).last_hidden_state
    assert not torch.equal(swapped, full)
    made.save_pretrained(tmp_path)
    again = minitrans.BigBirdModel.from_pretrained(tmp_path)
    assert torch.equal(again(**inputs).last_hidden_state, swapped)
    if isinstance(attention, dict):
        weights = made(**inputs, output_attentions=True).attentions[0]
        assert (weights[0, 0, 20, :18] == 0).all()
    made.set_attention("full")
    assert torch.equal(made(**inputs).last_hidden_state, full)
