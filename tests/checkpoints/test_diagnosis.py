"""`verify` names what is wrong: faults are put into our model one at a time, as a setting, a weight or a forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from minitrans.attention.mask import AttentionMask
from minitrans.checkpoints.verification import Verification, compare, with_exact_buffers
from minitrans.layers.activations import gelu_tanh
from minitrans.models.auto import class_by_name
from minitrans.models.backbone import Backbone, EncoderOutput
from minitrans.models.loading import load_model

Make = Callable[..., Any]
Patch = pytest.MonkeyPatch


def attention(model: Any, layer: int = 0) -> Any:
    return model.base_model.encoder.layer[layer].attention


def layers(model: Any) -> Any:
    return model.base_model.encoder.layer


def wrong_eps(model: Any, patch: Patch) -> None:
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-5


def eps_of_one_norm(model: Any, patch: Patch) -> None:
    layers(model)[1].attention_LayerNorm.eps = 1e-6


def tanh_gelu(model: Any, patch: Patch) -> None:
    for layer in layers(model):
        layer.feed_forward.act = gelu_tanh


def transposed_query(model: Any, patch: Patch) -> None:
    weight = attention(model, 1).query.weight
    weight.data = weight.data.T.contiguous()


def transposed_output(model: Any, patch: Patch) -> None:
    weight = attention(model).output.weight
    weight.data = weight.data.T.contiguous()


def shifted_positions(model: Any, patch: Patch) -> None:
    right = model.base_model.positions
    patch.setattr(model.base_model, "positions", lambda tokens, past: right(tokens, past) + 1)


def running_positions(model: Any, patch: Patch) -> None:
    body = model.base_model
    patch.setattr(body, "positions", lambda tokens, past: Backbone.positions(body, tokens, past))


def no_positions(model: Any, patch: Patch) -> None:
    model.base_model.embeddings.position_embeddings.weight.data.zero_()


def masked(model: Any, patch: Patch, change: Callable[[AttentionMask], AttentionMask]) -> None:
    stack = model.base_model.encoder
    right = stack.forward
    patch.setattr(
        stack, "forward", lambda x, context, *rest, **options: right(
            x, replace(context, mask=change(context.mask)), *rest, **options
        )
    )  # fmt: skip


def padding_attended(model: Any, patch: Patch) -> None:
    masked(model, patch, lambda mask: AttentionMask())


def causal(model: Any, patch: Patch) -> None:
    masked(model, patch, lambda mask: replace(mask, causal=True))


def no_scale(model: Any, patch: Patch) -> None:
    for layer in layers(model):
        layer.attention.scale = 1.0


def scale_of_the_width(model: Any, patch: Patch) -> None:
    attention(model).scale = model.config.hidden_size**-0.5


def pre_norm(model: Any, patch: Patch) -> None:
    for layer in layers(model):
        layer.norm_first = True


def swapped(one: str, other: str) -> Callable[[Any, Patch], None]:
    def damage(model: Any, patch: Patch) -> None:
        block = attention(model)
        first, second = getattr(block, one), getattr(block, other)
        setattr(block, one, second)
        setattr(block, other, first)

    return damage


def dropped_bias(model: Any, patch: Patch) -> None:
    attention(model, 1).value.bias.data.zero_()


def dropped_up_bias(model: Any, patch: Patch) -> None:
    layers(model)[0].feed_forward.up.bias.data.zero_()


def no_token_types(model: Any, patch: Patch) -> None:
    table = model.base_model.embeddings.token_type_embeddings
    patch.setattr(
        table, "forward", lambda types: torch.zeros(*types.shape, table.embedding_dim, dtype=table.weight.dtype)
    )


def interleaved_heads(model: Any, patch: Patch) -> None:
    block = attention(model)
    patch.setattr(block, "_split", lambda x: x.view(*x.shape[:-1], -1, block.num_heads).movedim(-1, 1))
    patch.setattr(block, "_join", lambda x: x.movedim(1, -1).flatten(-2))


def fewer_heads(model: Any, patch: Patch) -> None:
    for layer in layers(model):
        layer.attention.num_heads = layer.attention.num_kv_heads = 2
        layer.attention.head_width = 12


def untied(model: Any, patch: Patch) -> None:
    weight = model.lm_head.decoder.weight.detach()
    model.lm_head.decoder.weight = nn.Parameter(torch.randn(weight.shape, dtype=weight.dtype))


def no_tanh(model: Any, patch: Patch) -> None:
    pooler = model.base_model.pooler
    patch.setattr(pooler, "forward", lambda hidden: pooler.dense(hidden[:, 0]))


def last_pooled(model: Any, patch: Patch) -> None:
    pooler = model.base_model.pooler
    patch.setattr(pooler, "forward", lambda hidden: torch.tanh(pooler.dense(hidden[:, -1])))


def norm_swapped(model: Any, patch: Patch) -> None:
    norm = model.base_model.embeddings.LayerNorm
    norm.weight, norm.bias = norm.bias, norm.weight


def norm_without_bias(model: Any, patch: Patch) -> None:
    layers(model)[0].feed_forward_LayerNorm.bias.data.zero_()


def norm_without_weight(model: Any, patch: Patch) -> None:
    layers(model)[0].attention_LayerNorm.weight.data.fill_(1.0)


def no_residual(model: Any, patch: Patch) -> None:
    network = layers(model)[0].feed_forward
    right = network.forward
    patch.setattr(network, "forward", lambda x: right(x) - x)


def head_activation(model: Any, patch: Patch) -> None:
    model.lm_head.act = torch.relu


def exchanged_spans(model: Any, patch: Patch) -> None:
    for parameter in model.qa_outputs.parameters():
        parameter.data = parameter.data.flip(0)


def reads_the_token(model: Any, patch: Patch) -> None:
    right = model.run_body

    def body(*arguments: Any, **options: Any) -> EncoderOutput:
        output: EncoderOutput = right(*arguments, **options)
        return replace(output, pooler_output=output.last_hidden_state[:, 0])

    patch.setattr(model, "run_body", body)


FAULTS: list[tuple[str, str, Callable[[Any, Patch], None], str]] = [
    ("BertModel", "wrong eps", wrong_eps, "the eps of LayerNorm is 1e-05"),
    ("BertModel", "wrong eps in one place", eps_of_one_norm, "the eps of LayerNorm is 1e-06"),
    ("BertModel", "gelu form", tanh_gelu, "the activation is gelu_"),
    ("BertModel", "transposed query", transposed_query, "the weight of encoder.layer.1.attention.query is transposed"),
    ("BertModel", "transposed output", transposed_output, "attention.output is transposed"),
    ("BertModel", "position offset", shifted_positions, "positions are off by +1"),
    ("RobertaModel", "position offset of RoBERTa", shifted_positions, "positions are off by +1"),
    ("RobertaModel", "positions from 0", running_positions, "positions are off by -2"),
    ("BertModel", "no positions", no_positions, "position embeddings are missing"),
    ("BertModel", "padding attended", padding_attended, "padding is attended to"),
    ("BertModel", "causal", causal, "attention is causal"),
    ("BertModel", "no scale", no_scale, "the scores are not scaled"),
    ("BertModel", "scale of the width", scale_of_the_width, "scaled by the model's width"),
    ("BertModel", "pre-norm", pre_norm, "the norm comes before the sub-layer"),
    ("BertModel", "swapped query and key", swapped("query", "key"), "attention.query and encoder.layer.0.attention.key are swapped"),
    ("BertModel", "swapped key and value", swapped("key", "value"), "attention.key and encoder.layer.0.attention.value are swapped"),
    ("BertModel", "dropped bias", dropped_bias, "the bias of encoder.layer.1.attention.value is dropped"),
    ("BertModel", "dropped bias of up", dropped_up_bias, "the bias of encoder.layer.0.feed_forward.up is dropped"),
    ("BertModel", "no token types", no_token_types, "token types are missing"),
    ("BertModel", "wrong head split", interleaved_heads, "heads are split in the wrong order"),
    ("BertModel", "wrong number of heads", fewer_heads, "the number of heads is 2"),
    ("BertForMaskedLM", "tie cut", untied, "lm_head.decoder.weight is not tied to the token table"),
    ("BertModel", "no tanh", no_tanh, "the pooler has no tanh"),
    ("BertModel", "last token pooled", last_pooled, "the last token is pooled"),
    ("BertModel", "norm swapped", norm_swapped, "weight and bias of embeddings.LayerNorm are swapped"),
    ("BertModel", "norm without bias", norm_without_bias, "the bias of encoder.layer.0.feed_forward_LayerNorm is missing"),
    ("BertModel", "norm without weight", norm_without_weight, "the weight of encoder.layer.0.attention_LayerNorm is missing"),
    ("BertModel", "no residual", no_residual, "the residual sum is missing"),
    ("BertForMaskedLM", "head's activation", head_activation, "the activation is relu"),
    ("RobertaForMaskedLM", "head's activation of RoBERTa", head_activation, "the activation is relu"),
    ("BertForQuestionAnswering", "spans exchanged", exchanged_spans, "the outputs of qa_outputs stand in reverse order"),
    ("BertForSequenceClassification", "pooler passed by", reads_the_token, "the head reads the first token as it is"),
]  # fmt: skip


def diagnosed(reference: Make, class_name: str, damage: Callable[[Any], None], **changes: Any) -> Verification:
    source = reference(class_name, **changes)
    theirs = getattr(transformers, class_name).from_pretrained(
        source.folder, dtype=torch.float64, attn_implementation="eager"
    )
    ours, _ = load_model(class_by_name(class_name), source.folder, dtype="float64", padding="keep")
    theirs = with_exact_buffers(theirs, ours)
    damage(ours)
    return compare(ours, theirs.eval(), class_name)


@pytest.mark.parametrize(("class_name", "damage", "cause"), [(f[0], *f[2:]) for f in FAULTS], ids=[f[1] for f in FAULTS])  # fmt: skip
def test_the_cause_is_named(
    class_name: str, damage: Callable[[Any, Patch], None], cause: str, reference: Make, monkeypatch: Patch
) -> None:
    found = diagnosed(reference, class_name, lambda model: damage(model, monkeypatch))
    assert not found.equal
    assert cause in str(found.cause), found.summary()
    assert not str(found.cause).startswith("in the reference")


def test_a_setting_read_wrongly_is_named_from_the_other_side(reference: Make) -> None:
    """The configuration says 1e-5 here and 1e-12 there: our formula with our setting gives our output."""

    def damage(model: Any) -> None:
        wrong_eps(model, pytest.MonkeyPatch())
        model._set_config(model.config.updated(layer_norm_eps=1e-5))

    assert (
        diagnosed(reference, "BertModel", damage).cause
        == "in the reference, and not here: the eps of LayerNorm is 1e-12"
    )


def test_noise_is_unknown_and_two_mistakes_too(reference: Make, monkeypatch: Patch) -> None:
    def noise(model: Any) -> None:
        right = model.embeddings.forward
        monkeypatch.setattr(
            model.embeddings, "forward", lambda *a: right(*a) + 1e-6 * torch.rand(1, dtype=torch.float64)
        )

    assert diagnosed(reference, "BertModel", noise).cause == "unknown"

    def two(model: Any) -> None:
        no_scale(model, monkeypatch)
        interleaved_heads(model, monkeypatch)

    assert "likely cause: unknown" in diagnosed(reference, "BertModel", two).summary()


def test_of_two_mistakes_in_two_places_the_first_is_named(reference: Make, monkeypatch: Patch) -> None:
    def two(model: Any) -> None:
        no_scale(model, monkeypatch)
        swapped("query", "value")(model, monkeypatch)

    cause = diagnosed(reference, "BertModel", two).cause
    assert cause == "encoder.layer.0.attention.query and encoder.layer.0.attention.value are swapped"


def test_other_values_are_named_last(reference: Make) -> None:
    def damage(model: Any) -> None:
        with torch.no_grad():
            attention(model).key.weight[3] += 1e-4

    cause = diagnosed(reference, "BertModel", damage).cause
    assert cause == "encoder.layer.0.attention.key.weight has other values than in the checkpoint"


def test_a_gradient_has_no_cause_and_equality_none(reference: Make) -> None:
    def damage(model: Any) -> None:
        def hook(gradient: Tensor) -> Tensor:
            return gradient * 1.001

        model.encoder.layer[0].feed_forward.up.weight.register_hook(hook)

    found = diagnosed(reference, "BertModel", damage)
    assert found.first_diverging is not None
    assert found.first_diverging.kind == "gradient"
    assert found.cause is None
    places = found.by_layer()
    assert list(places)[:3] == ["embeddings", "layer 0", "layer 1"]
    assert places["layer 0"]["gradient"] > 1e-4
    assert places["layer 0"]["forward"] < 1e-12
    assert diagnosed(reference, "BertModel", lambda model: None).cause is None
