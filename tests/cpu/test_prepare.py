"""A prepared model computes what the model it was prepared from computes, and refuses the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

from minitrans import (
    AlbertModel,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    MPNetModel,
    RobertaModel,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormModel,
)
from minitrans.cpu import linear, prepare
from minitrans.cpu.calibration import input_reach
from minitrans.errors import NotSupportedError

SIZES: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96,
}  # fmt: skip
SENTENCES = [
    "A man is playing a guitar.",
    "Quantum chromodynamics describes the strong interaction between quarks and gluons.",
    "Nobody knew.",
    "The committee will meet again on Thursday to discuss the budget for the coming year, said the chairman.",
    "Two dogs run across a snowy field.",
]


def body(kind: type[Any] = BertModel, **changes: Any) -> Any:
    torch.manual_seed(0)
    model = kind(kind.config_class(**{**SIZES, "initializer_range": 0.2, **changes}))
    for parameter in model.parameters():  # biases and norms too
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return model.eval()


def batch(lengths: list[int]) -> dict[str, torch.Tensor]:
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, 99, mask.shape, generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids * mask + (1 - mask), "attention_mask": mask}


@pytest.mark.parametrize("kind", [BertModel, RobertaModel, MPNetModel])
@pytest.mark.parametrize("padding", ["remove", "keep"])
@pytest.mark.parametrize(
    "lengths", [[7], [9] * 40, [6] * 31 + [7] * 40, [3, 9, 1, 30, 30, 17], [9, 5] * 20, [120, 4, 70, 5]]
)
def test_float32_gives_the_numbers_of_the_model(kind: type[Any], padding: str, lengths: list[int]):
    model, inputs = body(kind), batch(lengths)
    with torch.no_grad():
        expected = model(**inputs, padding=padding, output_hidden_states=True)
    found = prepare(model)(**inputs, padding=padding, output_hidden_states=True)
    assert type(found) is type(expected)
    for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_blocks_that_normalise_first(dtype: str):
    torch.manual_seed(0)
    model = RobertaPreLayerNormModel(RobertaPreLayerNormConfig(**SIZES)).eval()
    inputs = batch([3, 9, 30])
    with torch.no_grad():
        expected = model(**inputs, padding="remove", output_hidden_states=True)
    found = prepare(model, dtype)(**inputs, padding="remove", output_hidden_states=True)
    tolerance = {"float32": 1e-5, "bfloat16": 0.1, "int8": 0.2}[dtype]  # of values around 1
    for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("act", ["gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "tanh"])
def test_other_activations_follow_the_projection(act: str):
    model, inputs = body(hidden_act=act), batch([4, 9])
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
    torch.testing.assert_close(prepare(model)(**inputs).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
    found = prepare(model, "int8")(**inputs).last_hidden_state
    assert 0.99 <= cosine_similarity(found.flatten(0, 1), expected.flatten(0, 1)).min() < 0.99999


def test_int8_keeps_hidden_features_that_reach_far():
    """As in trained encoders: one is many times as large as all others, for every token, and would take the scale of all."""
    model, inputs = body(initializer_range=0.05), batch([4, 9])
    with torch.no_grad():
        for block in model.encoder.layer:
            block.feed_forward.up.bias[7] = 500
            block.feed_forward.down.weight[:, 7] = 0.001  # else its output would hide that of the others
        exact = model.double()(**inputs).last_hidden_state
    found = prepare(model.float(), "int8")(**inputs).last_hidden_state.double()
    assert cosine_similarity(found.flatten(0, 1), exact.flatten(0, 1)).min() >= 0.995


def test_norms_without_a_bias():
    model, inputs = body(), batch([4, 9])
    for block in model.encoder.layer:
        block.attention_LayerNorm.bias = block.feed_forward_LayerNorm.bias = None
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
    torch.testing.assert_close(prepare(model)(**inputs).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


def test_a_row_without_tokens_and_a_mask_with_holes():
    model, inputs = body(), batch([6, 6, 6])
    inputs["attention_mask"][1] = 0
    inputs["attention_mask"][2, 2] = 0
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
    torch.testing.assert_close(prepare(model)(**inputs).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_batch_of_nothing_but_padding(dtype: str):
    fast = prepare(body(), dtype)
    inputs = batch([6, 6])
    inputs["attention_mask"][:] = 0
    assert torch.equal(fast(**inputs, padding="remove").last_hidden_state, torch.zeros(2, 6, fast.config.hidden_size))


def test_pruned_heads_are_served():
    model, inputs = body(), batch([6, 4])
    model.prune_heads({1: [0, 3]})
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
    torch.testing.assert_close(prepare(model)(**inputs).last_hidden_state, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 0.999), ("int8", 0.995)])
@pytest.mark.parametrize("kind", [BertModel, MPNetModel])
@pytest.mark.parametrize("padding", ["remove", "keep"])
def test_low_precision_stays_near(dtype: str, least: float, kind: type[Any], padding: str):
    model, inputs = body(kind, initializer_range=0.05), batch([3, 9, 1, 30, 30, 17])
    with torch.no_grad():
        exact = model.double()(**inputs, padding="remove", output_hidden_states=True).hidden_states
    found = prepare(model.float(), dtype)(**inputs, padding=padding, output_hidden_states=True).hidden_states
    real = inputs["attention_mask"].bool()
    assert found[-1].dtype == torch.float32
    for one, other in zip(found, exact, strict=True):
        assert cosine_similarity(one[real].double(), other[real], dim=-1).min() >= least


@pytest.mark.parametrize(("dtype", "least"), [("float32", 1 - 1e-9), ("bfloat16", 0.999), ("int8", 0.995)])
def test_sentence_vectors_of_a_real_checkpoint(minilm: Path, dtype: str, least: float):
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    inputs = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    model = AutoModel.from_pretrained(minilm)
    fast = prepare(model, dtype)
    weights = inputs["attention_mask"][..., None].double()  # (B, T, 1)
    with torch.no_grad():
        exact = (model.double()(**inputs).last_hidden_state * weights).sum(1)
    found = (fast_vectors(fast, model, inputs).double() * weights).sum(1)
    assert cosine_similarity(found, exact, dim=-1).min() >= least


@pytest.mark.parametrize("text", ["No.", "Yes", "dog", "What?", "2021", "Berlin"])
def test_int8_on_a_text_of_one_word(minilm: Path, text: str):
    """The texts that lose most: one outlier decides the scale of a handful of tokens."""
    inputs = AutoTokenizer.from_pretrained(minilm)([text], return_tensors="pt")
    model = AutoModel.from_pretrained(minilm)
    fast = prepare(model, "int8")
    with torch.no_grad():
        exact = model.double()(**inputs).last_hidden_state.mean(1)
    found = fast_vectors(fast, model, inputs).double().mean(1)
    assert 0.99 <= float(cosine_similarity(found, exact)) < 0.9999


def fast_vectors(fast: Any, model: Any, inputs: Any) -> torch.Tensor:
    model.float()  # the embeddings are shared
    vectors: torch.Tensor = fast(**inputs, padding="remove").last_hidden_state
    return vectors


def test_a_model_with_a_head():
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SIZES, num_labels=3)).eval()
    inputs = batch([5, 8])
    with torch.no_grad():
        expected = model(**inputs, labels=torch.tensor([0, 2]))
    fast = prepare(model)
    found = fast(**inputs, labels=torch.tensor([0, 2]))
    assert isinstance(fast, BertForSequenceClassification)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert not found.loss.requires_grad
    with pytest.raises(NotSupportedError, match="cannot be trained; train the model it was prepared from"):
        fast.train()
    assert not any(module.training for module in fast.modules())


def test_the_model_it_was_prepared_from_stays_as_it_is():
    model, inputs = body(), batch([5, 8])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prepare(model, "int8")(**inputs)
    assert type(model) is BertModel
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.train()
    model(**inputs).last_hidden_state.sum().backward()
    assert model.encoder.layer[0].attention.query.weight.grad is not None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_states_and_inputs_are_not_written_over(dtype: str):
    fast = prepare(body(), dtype)
    inputs = batch([6, 6])
    vectors = torch.randn(2, 6, 64, generator=torch.Generator().manual_seed(2))
    kept = vectors.clone()
    fast(inputs_embeds=vectors, attention_mask=inputs["attention_mask"], padding="keep")
    assert torch.equal(vectors, kept)
    with_states = fast(**inputs, padding="keep", output_hidden_states=True)
    assert torch.equal(with_states.last_hidden_state, with_states.hidden_states[-1])
    assert torch.equal(with_states.last_hidden_state, fast(**inputs, padding="keep").last_hidden_state)


REFUSALS = {
    "output_attentions": ({"output_attentions": True}, "does not go with output_attentions"),
    "head_mask": ({"head_mask": torch.ones(4)}, "does not go with head_mask"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_call_may_not_ask_for(name: str):
    options, message = REFUSALS[name]
    with pytest.raises(NotSupportedError, match=message):
        prepare(body())(**batch([5]), **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "it has relative positions"),
        ({"attention": {"name": "sliding_window", "window": 2}}, "its attention is not full"),
    ],
)
def test_models_that_are_not_served(changes: dict[str, Any], message: str):
    with pytest.raises(NotSupportedError, match=message):
        prepare(body(**changes))


def test_wrong_arguments():
    model = body()
    with pytest.raises(ValueError, match="dtype must be one of 'float32', 'bfloat16', 'int8', got 'fp8'"):
        prepare(model, "fp8")
    with pytest.raises(ValueError, match=r"training mode; call model.eval\(\)"):
        prepare(body().train())
    with pytest.raises(ValueError, match="prepared already"):
        prepare(prepare(model))
    with pytest.raises(NotSupportedError, match="float64"):
        prepare(body().double())


@pytest.mark.parametrize("method", ["save_pretrained", "state_dict", "set_attention", "double"])
def test_a_prepared_model_cannot_be_saved_or_changed(method: str):
    with pytest.raises(NotSupportedError, match="the model it was prepared from"):
        getattr(prepare(body()), method)()


def test_a_missing_operator_is_named(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no such operator here\nand much more")

    monkeypatch.setattr(linear, "FloatLinear", broken)
    with pytest.raises(NotSupportedError, match="dtype='float32' needs oneDNN's linear layers.*no such operator here$"):
        prepare(body())


@pytest.mark.parametrize("kind", [BertModel, AlbertModel, RobertaModel])
def test_the_reach_of_inputs_is_that_of_the_vocabulary(kind: type[Any]):
    """A feature that is large for every token is found, in the largest of all runs of a layer; nothing stays hooked."""
    model = body(kind)
    with torch.no_grad():
        model.embeddings.LayerNorm.bias[5] = 40
    up = model.encoder.layer[0].feed_forward.up
    seen: list[torch.Tensor] = []
    handle = up.register_forward_pre_hook(lambda layer, given: seen.append(given[0].flatten(0, -2)))
    found = input_reach(model, [up])
    handle.remove()
    assert torch.equal(found[up], torch.cat(seen).abs().amax(0))
    assert len(seen) == model.encoder.order.count(0)
    assert not up._forward_pre_hooks
    query = model.encoder.layer[0].attention.query
    assert int(input_reach(model, [query])[query].argmax()) == 5 or kind is AlbertModel
