"""`verify` on the families that are not BERT: each agrees with the reference, and what is put wrong in it is named.

ALBERT's layers share blocks: each run of a block is a layer of its own here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from minitrans.attention.bias import RelativeBuckets
from minitrans.layers.activations import activation
from tests.checkpoints.test_diagnosis import (
    Make,
    Patch,
    causal,
    diagnosed,
    dropped_bias,
    dropped_up_bias,
    head_activation,
    interleaved_heads,
    last_pooled,
    layers,
    no_positions,
    no_residual,
    no_scale,
    no_token_types,
    padding_attended,
    running_positions,
    shifted_positions,
    swapped,
    tanh_gelu,
    transposed_output,
    wrong_eps,
)

GROUPS = {"num_hidden_layers": 4, "num_hidden_groups": 2}
AGREEING = [
    ("DistilBertForMaskedLM", {}),
    ("DistilBertForSequenceClassification", {}),
    ("ElectraForPreTraining", {}),
    ("ElectraForSequenceClassification", {}),
    ("ElectraModel", {"embedding_size": 24}),
    ("AlbertForPreTraining", GROUPS),
    ("AlbertForQuestionAnswering", {"num_hidden_layers": 3, "inner_group_num": 2}),
    ("MPNetForSequenceClassification", {}),
    ("MPNetForMultipleChoice", {}),
    ("RobertaPreLayerNormForMaskedLM", {}),
    ("RobertaPreLayerNormForSequenceClassification", {}),
    ("DebertaV2ForMaskedLM", {}),
    ("LongformerForSequenceClassification", {}),
    ("BigBirdForMaskedLM", {}),
    ("NystromformerForMaskedLM", {}),
    ("ModernBertForMaskedLM", {}),
    ("NomicBertForTokenClassification", {}),
    ("RoFormerForSequenceClassification", {}),
    ("FNetForMaskedLM", {}),
]


@pytest.mark.parametrize(("class_name", "changes"), AGREEING)
def test_what_is_right_agrees(class_name: str, changes: dict[str, Any], reference: Make) -> None:
    found = diagnosed(reference, class_name, lambda model: None, **changes)
    assert found.equal, found.summary()
    assert found.cause is None


def no_activation_before_scores(model: Any, patch: Patch) -> None:
    patch.setattr(model, "score", lambda hidden, pooled: model.classifier(model.pre_classifier(hidden[:, 0])))


def projection_without_bias(model: Any, patch: Patch) -> None:
    model.base_model.embeddings.projection.bias.data.zero_()


def other_activation(module: str, name: str) -> Callable[[Any, Patch], None]:
    def damage(model: Any, patch: Patch) -> None:
        model.get_submodule(module).act = activation(name)

    return damage


def exact_gelu(model: Any, patch: Patch) -> None:
    for layer in layers(model):
        layer.feed_forward.act = activation("gelu")


def other_order(model: Any, patch: Patch) -> None:
    model.base_model.encoder.order = (0, 1, 0, 1)


def no_scale_in_the_second_run(model: Any, patch: Patch) -> None:
    block = layers(model)[0]
    right = block.forward
    runs = 0

    def forward(*arguments: Any, **options: Any) -> Any:
        nonlocal runs
        runs += 1
        with pytest.MonkeyPatch.context() as once:
            if runs == 2:
                once.setattr(block.attention, "scale", 1.0)
            return right(*arguments, **options)

    patch.setattr(block, "forward", forward)


def no_tanh_after_the_pooler(model: Any, patch: Patch) -> None:
    pooler = model.base_model.pooler
    patch.setattr(pooler, "forward", lambda hidden: pooler.dense(hidden[:, 0]))


def distances(change: Callable[[Any], Any]) -> Callable[[Any, Patch], None]:
    def damage(model: Any, patch: Patch) -> None:
        table = model.base_model.encoder.relative_attention_bias
        right = table.bias
        patch.setattr(table, "bias", lambda: change(right()))

    return damage


def without_distances(bias: Any) -> Any:
    return type(bias)(bias.table * 0)


class Backwards(RelativeBuckets):
    def buckets(self, ahead: torch.Tensor) -> torch.Tensor:
        return super().buckets(-ahead)


def exchanged_sides(bias: Any) -> Any:
    return Backwards(bias.table)


def other_maximum(bias: Any) -> Any:
    return type(bias)(bias.table, max_distance=32)


def norms_after(model: Any, patch: Patch) -> None:
    for layer in layers(model):
        layer.norm_first = False


def no_last_norm(model: Any, patch: Patch) -> None:
    patch.setattr(model.base_model.encoder.LayerNorm, "forward", lambda x: x)


FAULTS: list[tuple[str, Callable[[Any, Patch], None], str]] = [
    ("DistilBertModel", tanh_gelu, "the activation is gelu_"),
    ("DistilBertModel", shifted_positions, "positions are off by +1"),
    ("DistilBertModel", swapped("query", "value"), "attention.query and encoder.layer.0.attention.value are swapped"),
    ("DistilBertModel", transposed_output, "the weight of encoder.layer.0.attention.output is transposed"),
    ("DistilBertForMaskedLM", head_activation, "the activation is relu"),
    ("DistilBertForSequenceClassification", no_activation_before_scores, "the activation before the scores is linear"),
    ("ElectraModel", projection_without_bias, "the bias of embeddings.projection is dropped"),
    ("ElectraModel", no_token_types, "token types are missing"),
    ("ElectraModel", wrong_eps, "the eps of LayerNorm is 1e-05"),
    ("ElectraModel", causal, "attention is causal"),
    ("ElectraModel", dropped_up_bias, "the bias of encoder.layer.0.feed_forward.up is dropped"),
    ("ElectraForMaskedLM", head_activation, "the activation is relu"),
    ("ElectraForPreTraining", other_activation("discriminator_predictions", "relu"), "the activation is relu"),
    ("ElectraForSequenceClassification", other_activation("classifier", "tanh"), "the activation before the scores is tanh"),
    ("AlbertModel", projection_without_bias, "the bias of embeddings.projection is dropped"),
    ("AlbertModel", exact_gelu, "the activation is gelu"),
    ("AlbertModel", no_positions, "position embeddings are missing"),
    ("AlbertModel", no_residual, "the residual sum is missing"),
    ("AlbertModel", last_pooled, "the last token is pooled"),
    ("AlbertForSequenceClassification", no_tanh_after_the_pooler, "the activation before the scores is linear"),
    ("MPNetModel", distances(without_distances), "the scores of distances are missing"),
    ("MPNetModel", distances(exchanged_sides), "the scores of distances before and after a token are exchanged"),
    ("MPNetModel", distances(other_maximum), "the distances of the scores grow up to 32, not 128"),
    ("MPNetModel", running_positions, "positions are off by -2"),
    ("MPNetModel", padding_attended, "padding is attended to"),
    ("MPNetModel", interleaved_heads, "heads are split in the wrong order"),
    ("MPNetForSequenceClassification", other_activation("classifier", "gelu"), "the activation before the scores is gelu"),
    ("RobertaPreLayerNormModel", norms_after, "the norm comes after the sum, not before the sub-layer"),
    ("RobertaPreLayerNormModel", no_last_norm, "LayerNorm is not applied"),
    ("RobertaPreLayerNormModel", wrong_eps, "the eps of LayerNorm is 1e-05"),
    ("RobertaPreLayerNormModel", no_scale, "the scores are not scaled"),
    ("RobertaPreLayerNormModel", dropped_bias, "the bias of encoder.layer.1.attention.value is dropped"),
    ("RobertaPreLayerNormModel", tanh_gelu, "the activation is gelu_"),
    ("RobertaPreLayerNormModel", shifted_positions, "positions are off by +1"),
    ("RobertaPreLayerNormForMaskedLM", head_activation, "the activation is relu"),
    ("DebertaV2Model", wrong_eps, "the eps of LayerNorm is 1e-05"),
    ("DebertaV2Model", dropped_bias, "the bias of encoder.layer.1.attention.value is dropped"),
    ("LongformerModel", swapped("query", "value"), "attention.query and encoder.layer.0.attention.value are swapped"),
    ("BigBirdModel", no_residual, "the residual sum is missing"),
    ("NystromformerModel", exact_gelu, "the activation is gelu"),
    ("ModernBertModel", transposed_output, "the weight of encoder.layer.0.attention.output is transposed"),
    ("NomicBertModel", no_token_types, "token types are missing"),
    ("RoFormerModel", dropped_up_bias, "the bias of encoder.layer.0.feed_forward.up is dropped"),
    ("FNetForMaskedLM", head_activation, "the activation is relu"),
]  # fmt: skip


@pytest.mark.parametrize(("class_name", "damage", "cause"), FAULTS)
def test_the_cause_is_named(
    class_name: str, damage: Callable[[Any, Patch], None], cause: str, reference: Make, monkeypatch: Patch
) -> None:
    found = diagnosed(reference, class_name, lambda model: damage(model, monkeypatch))
    assert not found.equal
    assert cause in str(found.cause), found.summary()
    assert not str(found.cause).startswith("in the reference")


@pytest.mark.parametrize(
    ("damage", "module", "layer", "cause"),
    [
        (no_scale_in_the_second_run, "dense", 1, "the scores are not scaled"),
        (other_order, "query", 1, "encoder.layer.1 runs with the weights of encoder.layer.2"),
        (dropped_bias, "value", 2, "the bias of encoder.layer.2.attention.value is dropped"),  # of the second group
    ],
)
def test_each_run_of_a_shared_block_is_compared(
    damage: Callable[[Any, Patch], None], module: str, layer: int, cause: str, reference: Make, monkeypatch: Patch
) -> None:
    found = diagnosed(reference, "AlbertModel", lambda model: damage(model, monkeypatch), **GROUPS)
    assert found.first_diverging is not None
    assert found.first_diverging.name.endswith(f".attention.{module} in layer {layer}"), found.summary()
    assert found.cause == cause
    places = found.by_layer()
    assert [place for place in places if place.startswith("layer ")] == [f"layer {n}" for n in range(4)]
    assert places[f"layer {layer - 1}"]["forward"] < 1e-12
    assert places[f"layer {layer}"]["forward"] > 1e-6


def test_a_layer_that_never_runs_is_named(reference: Make, monkeypatch: Patch) -> None:
    def shorter(model: Any) -> None:
        stack = model.base_model.encoder
        stack.order = (0, 0, 1)

    found = diagnosed(reference, "AlbertModel", shorter, **GROUPS)
    assert found.first_diverging is not None
    assert found.first_diverging.name == "encoder.albert_layer_groups.1.albert_layers.0.attention.query in layer 3"
    assert found.first_diverging.error == float("inf")
    assert found.cause is None


@pytest.mark.parametrize("class_name", ["DistilBertModel", "ElectraModel", "AlbertModel", "MPNetModel", "RobertaPreLayerNormModel"])  # fmt: skip
def test_noise_is_unknown(class_name: str, reference: Make, monkeypatch: Patch) -> None:
    def noisy(right: Callable[..., torch.Tensor], *arguments: Any) -> torch.Tensor:
        return right(*arguments) + 1e-6 * torch.rand(1, dtype=torch.float64)

    def noise(model: Any) -> None:
        norm = layers(model)[0].feed_forward_LayerNorm
        monkeypatch.setattr(norm, "forward", partial(noisy, norm.forward))

    found = diagnosed(reference, class_name, noise)
    assert not found.equal
    assert found.cause == "unknown"
