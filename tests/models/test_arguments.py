"""The words of a forward: their order is the reference's, some mean nothing, others are refused with the nearest that exists."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import minitrans
from minitrans.families import FAMILIES, bodies
from minitrans.models.arguments import IGNORED_WORDS
from tests.tiny import fitted

TINY = {
    "vocab_size": 23, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 16,
    "max_position_embeddings": 12, "num_key_value_heads": 3, "head_dim": 4,
}  # fmt: skip
# with which positions that are given change the numbers
POSITIONS: dict[str, dict[str, Any]] = {"deberta-v2": {"position_biased_input": True}}
MODELS = [
    (row.class_name(head), family) for family, row in FAMILIES.items() for head in row.heads if family in bodies()
]
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def build(name: str, **fields: Any) -> Any:
    family = next(family for model, family in MODELS if model == name)
    fields = fitted(family, {**TINY, **POSITIONS.get(family, {}), **fields})
    config_class = getattr(minitrans, f"{FAMILIES[family].prefix}Config")
    known = {item.name for item in dataclasses.fields(config_class)}
    if ("CausalLM" in name or "LMHead" in name) and "is_decoder" in known:
        fields["is_decoder"] = True
    if config_class.pad_token_id is None:
        fields.setdefault("pad_token_id", 0)
    fields = {config_class.own_names.get(field, field): value for field, value in fields.items()}
    config = config_class(**{field: value for field, value in fields.items() if field in known})
    torch.manual_seed(3)
    return getattr(minitrans, name)(config).double().eval()


def positional(forward: Any) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [each.name for each in inspect.signature(forward).parameters.values() if each.kind in kinds][1:]


@pytest.mark.parametrize(("name", "family"), MODELS)
def test_the_positional_order_is_the_reference_s(name: str, family: str) -> None:
    expected, ours = (positional(getattr(module, name).forward) for module in (transformers, minitrans))
    assert ours[: len(expected)] == expected


VALUES: dict[str, Tensor | None] = {
    "input_ids": IDS, "attention_mask": MASK, "token_type_ids": torch.zeros_like(IDS),
    "global_attention_mask": torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0]]),
    "position_ids": torch.tensor([[2, 3, 5, 4], [4, 3, 2, 5]]), "labels": torch.tensor([[1, 0, 1, 1], [0, 1, 1, -100]]),
    "start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 2]),
    "next_sentence_label": torch.tensor([1, 0]), "sentence_order_label": torch.tensor([0, 1]),
}  # fmt: skip


def values(name: str) -> dict[str, Any]:
    """What a model is called with, by name."""
    given = dict(VALUES)
    if "SequenceClassification" in name or "NextSentence" in name:
        given["labels"] = torch.tensor([1, 0])
    if "MultipleChoice" in name:  # (B, choices, T)
        given = {key: None if value is None else torch.stack([value, value.flip(0)], 1) for key, value in given.items()}
        given["labels"] = torch.tensor([1, 0])
    return given


@pytest.mark.parametrize(("name", "family"), MODELS)
def test_by_position_and_by_name_are_the_same(name: str, family: str) -> None:
    """Labels too: they give a loss, and positions given where the reference takes them change the numbers."""
    model, given = build(name), values(name)
    order = positional(getattr(transformers, name).forward)
    by_position = [given.get(word) for word in order]
    by_name = {word: given[word] for word in order if word in given}
    found, expected = model(*by_position), model(**by_name)
    assert found.keys() == expected.keys()
    assert "loss" in found or name.endswith("Model")
    for key in expected.keys():  # noqa: SIM118
        if isinstance(expected[key], Tensor):
            assert torch.equal(found[key], expected[key]), key
    plain = model(**{**by_name, "position_ids": None})
    last = next(key for key in reversed(expected.keys()) if isinstance(expected[key], Tensor))
    assert torch.equal(plain[last], expected[last]) == ("position_ids" not in order)


def test_too_many_by_position() -> None:
    with pytest.raises(
        TypeError, match="DistilBertModel takes input_ids, attention_mask, inputs_embeds, position_ids by position"
    ):
        build("DistilBertModel")(IDS, MASK, None, None, None)
    with pytest.raises(TypeError, match="multiple values"):
        build("DistilBertModel")(IDS, MASK, attention_mask=MASK)


@pytest.mark.parametrize(
    "name", ["BertModel", "BertForSequenceClassification", "MPNetForMaskedLM", "DistilBertForQuestionAnswering"]
)
def test_what_tokenizers_and_collators_add_changes_nothing(name: str) -> None:
    model = build(name)
    added: dict[str, Any] = dict.fromkeys(IGNORED_WORDS, IDS)
    assert torch.equal(model(IDS, **added)[0], model(IDS)[0])


@pytest.mark.parametrize(
    ("name", "word", "words"),
    [
        ("BertModel", "atention_mask", "BertModel has no argument 'atention_mask': did you mean attention_mask"),
        ("MPNetForMaskedLM", "lables", "'lables': did you mean labels"),
        ("MPNetForMaskedLM", "positions_ids", "did you mean position_ids"),
        ("BertModel", "labels", "'labels': this model has no loss for it"),
        ("BertForQuestionAnswering", "labels", "no loss for it"),
        ("BertForMaskedLM", "pixels", "the body takes input_ids, attention_mask"),
    ],
)
def test_a_word_that_nobody_knows_is_refused(name: str, word: str, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        build(name)(IDS, **{word: IDS})


def test_masks_of_four_dimensions_and_types_and_positions_of_one_row() -> None:
    model = build("BertModel")
    expected = model(IDS, attention_mask=MASK).last_hidden_state[MASK.bool()]
    keys = MASK.bool()[:, None, None]  # (B, 1, 1, S)
    scores = torch.zeros(2, 1, 1, 4).masked_fill(~keys, torch.finfo(torch.float32).min)
    for mask in (keys, scores, keys.expand(2, 1, 4, 4), keys.expand(2, 3, 4, 4), scores.expand(2, 1, 4, 4)):
        found = model(IDS, attention_mask=mask).last_hidden_state[MASK.bool()]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    row = torch.tensor([[0, 1, 1, 0]])
    whole = model(IDS, token_type_ids=row.expand(2, 4), position_ids=row.expand(2, 4)).last_hidden_state
    for part in (row, row[0]):
        assert torch.equal(model(IDS, token_type_ids=part, position_ids=part).last_hidden_state, whole)


def test_head_mask_as_a_list() -> None:
    model = build("BertModel")
    factors = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    expected = model(IDS, head_mask=torch.stack([torch.ones(3, dtype=torch.float64), factors])).last_hidden_state
    assert torch.equal(model(IDS, head_mask=[None, factors]).last_hidden_state, expected)
    assert torch.equal(model(IDS, head_mask=[None, None]).last_hidden_state, model(IDS).last_hidden_state)
    with pytest.raises(ValueError, match=r"head_mask must be \(H\) or \(L, H\) = \(2, 3\), got \(3, 3\)"):
        model(IDS, head_mask=[None, None, factors])


def test_logits_to_keep() -> None:
    model = build("BertLMHeadModel")
    whole = model(IDS).logits
    assert torch.allclose(model(IDS, logits_to_keep=1).logits, whole[:, -1:], rtol=0, atol=1e-14)
    assert torch.allclose(model(IDS, logits_to_keep=torch.tensor([0, 2])).logits, whole[:, [0, 2]], rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match="logits_to_keep does not go with labels"):
        model(IDS, labels=IDS, logits_to_keep=1)


PARTS = [(slice(0, 1), slice(1, 4)), (slice(0, 2), slice(2, 3), slice(3, 4))]


@pytest.mark.parametrize("parts", PARTS, ids=["in two", "in three"])
@pytest.mark.parametrize(
    ("name", "family"), [model for model in MODELS if not model[0].endswith("Model") or "LMHead" in model[0]]
)
def test_gradients_of_the_parts_of_a_batch_add_up_to_those_of_the_whole(name: str, family: str, parts: Any) -> None:
    """With the number of labels of the whole, however many each part has; one has none that is learnt."""
    given = {key: torch.cat([value, value.flip(0)]) for key, value in values(name).items() if value is not None}
    words = [word for word in positional(getattr(minitrans, name).forward) if word in given]
    given = {word: given[word] for word in words}
    model = build(name)
    if given.get("labels") is not None and given["labels"].dim() == 2 and "Electra" not in name:
        given["labels"][3] = -100
    labels = given.get("labels", given.get("start_positions"))
    count: Any = (labels != -100).sum()
    if model_has_two := "sentence" in " ".join(words):
        count = (count, 4)
    if "CausalLM" in name or "LMHead" in name:
        count = (labels[:, 1:] != -100).sum()
    if name == "ElectraForPreTraining":
        given["labels"], count = given["labels"].clamp(min=0), MASK.sum() * 2
    model(**given).loss.backward()
    expected = {
        key: parameter.grad.clone() for key, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    for part in parts:
        model(**{word: value[part] for word, value in given.items()}, num_items_in_batch=count).loss.backward()
    assert expected.keys() == {key for key, parameter in model.named_parameters() if parameter.grad is not None}
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert (parameter.grad - expected[key]).abs().max() <= 1e-6 * max(
                1e-9, float(expected[key].abs().max())
            ) + 1e-12, key
    if model_has_two:
        with pytest.raises(ValueError, match="two losses need two counts"):
            model(**given, num_items_in_batch=4)


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({"num_labels": 1}, torch.tensor([0.5, 1.0, -2.0, 0.25])),
        ({"num_labels": 3, "problem_type": "regression"}, torch.arange(12).view(4, 3) / 7),
        ({"num_labels": 3}, torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 0]])),
    ],
    ids=["regression", "regression of three", "multi-label"],
)
def test_so_do_those_of_other_problems(fields: dict[str, Any], labels: Tensor) -> None:
    model, ids = build("BertForSequenceClassification", **fields), torch.cat([IDS, IDS + 3])
    model(ids, labels=labels).loss.backward()
    expected = model.classifier.weight.grad.clone()
    model.zero_grad()
    for part in PARTS[1]:
        model(ids[part], labels=labels[part], num_items_in_batch=labels.ne(-100).sum()).loss.backward()
    torch.testing.assert_close(model.classifier.weight.grad, expected, rtol=1e-12, atol=1e-14)


def test_one_class_is_refused_where_it_would_be_learnt() -> None:
    with pytest.raises(ValueError, match="problem_type must be 'regression' with one label .*num_labels=2"):
        build("BertForSequenceClassification", num_labels=1, problem_type="single_label_classification")
