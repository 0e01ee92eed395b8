"""`padding=` in the call of every model, with a head or without, with labels or without."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

import minitrans
from minitrans.families import FAMILIES, bodies
from minitrans.models.backbone import Backbone
from minitrans.models.padding import WORTH_IT, Packing
from tests.models.conftest import NEEDS_PADDING, with_global_tokens
from tests.tiny import fitted

# pairwise different: H=3, D=24, F=19, V=37, L=2
SIZES: dict[str, Any] = {
    "vocab_size": 37, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 19,
    "embedding_size": 7, "max_position_embeddings": 600, "use_cache": False, "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip
NAMES = [
    name
    for model_type in bodies() if model_type not in NEEDS_PADDING
    for name in FAMILIES[model_type].class_names[1:] if name not in FAMILIES[model_type].others
]  # fmt: skip


def build(name: str) -> Any:
    kind = getattr(minitrans, name)
    known = {item.name for item in dataclasses.fields(kind.config_class)}
    fields = {"is_decoder": True, **SIZES} if name.endswith(("CausalLM", "LMHeadModel")) else SIZES
    summary = (
        {"summary_type": "first"} if kind.config_class.model_type == "roformer" else {}
    )  # which looks at no padding
    padding = {"pad_token_id": 1} if kind.config_class.pad_token_id is None else {}
    fields = fitted(kind.config_class.model_type, {**fields, **summary, **padding})
    named = {kind.config_class.own_names.get(field, field): value for field, value in fields.items()}
    without_dropout = {field: 0.0 for field in known if "dropout" in field}
    torch.manual_seed(0)
    config = kind.config_class(**without_dropout, **{field: value for field, value in named.items() if field in known})
    return kind(config).double()


def batch(net: Any, name: str, length: int = 8) -> dict[str, Tensor]:
    mask = torch.ones(4, length, dtype=torch.long)
    for row, tokens in enumerate((length, 2, 5, 1)):
        mask[row, tokens:] = 0
    ids = torch.randint(4, 37, mask.shape, generator=torch.Generator().manual_seed(1))
    given = {"input_ids": ids.masked_fill(mask == 0, net.config.pad_token_id), "attention_mask": mask}
    given = with_global_tokens(net, given)
    return {key: value.view(2, 2, length) for key, value in given.items()} if name.endswith("Choice") else given


def labels(name: str, given: dict[str, Tensor]) -> dict[str, Tensor]:
    ids, rows = given["input_ids"], torch.tensor([0, 1, 1, 0])
    tokens = ids.masked_fill(given["attention_mask"] == 0, -100)
    if name.endswith("Model") and not name.endswith("LMHeadModel"):
        return {}
    if name.endswith("QuestionAnswering"):
        return {"start_positions": torch.tensor([1, 0, 1, 0]), "end_positions": torch.tensor([3, 1, 2, 0])}
    if name.endswith("MultipleChoice"):
        return {"labels": torch.tensor([1, 0])}
    if name == "BertForPreTraining":
        return {"labels": tokens, "next_sentence_label": rows}
    if name == "AlbertForPreTraining":
        return {"labels": tokens, "sentence_order_label": rows}
    if name == "ElectraForPreTraining":
        return {"labels": ids % 2}
    if name.endswith("TokenClassification"):
        return {"labels": tokens.clamp(max=1)}
    return {"labels": rows if name.endswith(("SequenceClassification", "SentencePrediction")) else tokens}


def leaves(net: Any, out: Any, given: dict[str, Tensor]) -> list[Tensor]:
    """Of each entry what the call without padding has too: all of it, or the numbers at tokens."""
    real = given["attention_mask"].bool()
    per_token = [value.dim() > 1 and value.shape[:2] == real.shape for value in out[:]]
    return [value[real] if at_tokens else value for value, at_tokens in zip(out[:], per_token, strict=True)]


@pytest.fixture
def packings(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry a body's forward: whether it ran without its padding."""
    seen: list[bool] = []
    forward = Backbone.forward

    def watched(self: Any, *args: Any, **options: Any) -> Any:
        made: list[Packing] = []
        of_mask = Packing.of_mask

        def noted(real: Tensor) -> Packing:
            made.append(of_mask(real))
            return made[0]

        with monkeypatch.context() as patch:
            patch.setattr(Packing, "of_mask", noted)
            out = forward(self, *args, **options)
        seen.append(bool(made))
        return out

    monkeypatch.setattr(Backbone, "forward", watched)
    return seen


@pytest.mark.parametrize("learns", [False, True], ids=["scores", "labels"])
@pytest.mark.parametrize("name", NAMES)
def test_a_call_says_what_becomes_of_its_padding(name: str, learns: bool, packings: list[bool]) -> None:
    net = build(name).eval()
    given = batch(net, name)
    wanted = labels(name, given) if learns else {}
    if learns and not wanted:
        pytest.skip("a body has no labels")
    if learns and name.endswith("QuestionAnswering"):
        expected = net(**given, padding="keep", **wanted).loss  # padding competes for the span there (B5), not here
        assert torch.isfinite(expected)
    kept, removed, default = (net(**given, **wanted, **how) for how in ({"padding": "keep"}, {"padding": "remove"}, {}))
    assert packings[-3:] == [False, True, False]
    assert kept.keys() == removed.keys() == default.keys()
    spans = name.endswith("QuestionAnswering")
    for entry, ours, theirs in zip(kept.keys(), leaves(net, removed, given), leaves(net, kept, given), strict=True):
        if entry != "loss" or not spans:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for ours, theirs in zip(default[:], kept[:], strict=True):
        assert torch.equal(ours, theirs), "a small batch is left as it is"
    net.set_padding("remove")
    net(**given, **wanted)
    net(**given, **wanted, padding="keep")
    assert packings[-2:] == [True, False], "the call goes before the model"


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_with_labels_auto_keeps_the_padding(name: str, packings: list[bool]) -> None:
    """Of a batch that it removes the padding of without them: a loss may count it (B5)."""
    net = build(name).eval()
    given = batch(net, name, 512)
    wide = {key: value.repeat(3, *[1] * (value.dim() - 1)) for key, value in given.items()}
    assert 24 * int((wide["attention_mask"] == 0).sum()) >= WORTH_IT
    wanted = {key: value.repeat(3, *[1] * (value.dim() - 1)) for key, value in labels(name, given).items()}
    for how in ({}, {"padding": "auto"}):
        net(**wide, **how)
        assert packings[-1]
        if wanted:
            net(**wide, **wanted, **how)
            assert not packings[-1]


@pytest.mark.parametrize(
    "name", ["BertModel", "BertForMaskedLM", "RobertaForQuestionAnswering", "AlbertForPreTraining"]
)
def test_an_unknown_word(name: str) -> None:
    net = build(name)
    with pytest.raises(ValueError, match="padding must be one of 'auto', 'keep', 'remove', got 'drop'"):
        net(**batch(net, name), padding="drop")
