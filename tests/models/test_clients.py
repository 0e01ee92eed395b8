"""What libraries ask of a model: one truth of its configuration, sizes, recomputation, tables that grow, mapped and shapeless calls."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, vmap
from torch.utils import _pytree as pytree

import minitrans
from minitrans import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertLMHeadModel,
    BertModel,
    MPNetConfig,
    MPNetForMaskedLM,
    MPNetModel,
    NotSupportedError,
    Variant,
)

SIZES: dict[str, Any] = {
    "vocab_size": 23, "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 16,
    "max_position_embeddings": 12,
}  # fmt: skip
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
HEADS = ["BertForMaskedLM", "BertForSequenceClassification", "BertForQuestionAnswering", "BertForMultipleChoice"]


def build(kind: Any, **fields: Any) -> Any:
    torch.manual_seed(5)
    return kind(kind.config_class(**{**SIZES, **fields})).double().eval()


def call(model: Any) -> Tensor:
    ids = IDS[:, None] if "Choice" in type(model).__name__ else IDS
    out: Tensor = model(ids)[0]
    return out


# --- one truth of the configuration -----------------------------------------------------------------------------------

CHANGES: dict[str, Any] = {
    "resize": lambda model: model.resize_token_embeddings(30),
    "prune": lambda model: model.prune_heads({0: [1], 2: [0, 2]}),
    "swap": lambda model: model.set_attention({"name": "sliding_window", "window": 2}),
}


@pytest.mark.parametrize("changed", ["whole", "body"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", [*HEADS, "BertModel"])
def test_a_change_leaves_one_truth_that_is_saved(name: str, change: str, changed: str, tmp_path: Path) -> None:
    kind = getattr(minitrans, name)
    model = build(kind)
    owner = model if changed == "whole" else model.base_model
    if (name, change, changed) == ("BertForMaskedLM", "resize", "body"):
        with pytest.raises(ValueError, match=r"the head above has as many rows: resize the whole model.*\(30\)"):
            CHANGES[change](owner)
        assert model.config.vocab_size == 23
        return
    CHANGES[change](owner)
    assert model.config == model.base_model.config != build(kind).config
    expected = call(model)
    model.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert again.config.vocab_size == model.get_input_embeddings().num_embeddings
    torch.testing.assert_close(call(again), expected, rtol=0, atol=1e-12)


def test_padding_of_a_head_and_its_body_is_one() -> None:
    model = build(BertForSequenceClassification)
    model.set_padding("remove")
    assert (model.padding, model.bert.padding) == ("remove", "remove")
    model.bert.set_padding("keep")
    assert model.padding == "keep"
    assert copy.deepcopy(model).padding == pickle.loads(pickle.dumps(model)).padding == "keep"


def test_two_models_of_one_configuration_change_apart() -> None:
    config = BertConfig(**SIZES)
    first, second = BertModel(config), BertModel(config)
    first.resize_token_embeddings(40)
    assert (first.config.vocab_size, second.config.vocab_size) == (40, 23)


def test_layers_that_share_a_table_of_heads_are_not_pruned() -> None:
    for model in (build(MPNetModel), build(MPNetForMaskedLM)):
        before = call(model)
        with pytest.raises(ValueError, match="pruned_heads must be empty: layers share a table with a column a head"):
            model.prune_heads({0: [1]})
        assert torch.equal(call(model), before)
    with pytest.raises(ValueError, match="pruned_heads must be empty"):
        MPNetConfig(**SIZES, pruned_heads={0: (1,)})


# --- tables that grow -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_rows_that_come_are_where_the_reference_draws_them(tied: bool) -> None:
    """Around the mean, so closely that only the mean can be told; biases there too, or 0 where they go with a tied decoder."""
    sizes = {**SIZES, "vocab_size": 200, "tie_word_embeddings": tied}
    theirs: Any = transformers.BertForMaskedLM(transformers.BertConfig(**sizes))
    decoder = theirs.cls.predictions.decoder
    with torch.no_grad():
        decoder.bias.normal_(1.0)
        decoder.weight.normal_(0.7)
    ours = BertForMaskedLM(BertConfig(**sizes))
    with torch.no_grad():
        ours.get_input_embeddings().weight.copy_(theirs.get_input_embeddings().weight)
        ours.lm_head.decoder.weight.copy_(decoder.weight)
        ours.lm_head.decoder.bias.copy_(decoder.bias)
    table, expected = ours.resize_token_embeddings(210), theirs.resize_token_embeddings(210)
    assert table is ours.get_input_embeddings()
    assert (ours.lm_head.decoder.weight is table.weight) == tied
    assert ours.lm_head.decoder.out_features == 210
    pairs = [(table.weight, expected.weight), (ours.lm_head.decoder.weight, theirs.cls.predictions.decoder.weight)]
    for mine, reference in pairs:
        mine, reference = mine.detach(), reference.detach()
        torch.testing.assert_close(mine[200:], reference[200:], rtol=0, atol=1e-3)
        assert not torch.equal(mine[200:], reference[200:])  # drawn
        assert (mine[200:] - mine[:200].mean(0)).std() < 1e-4
        assert torch.equal(mine[:200], reference[:200])
    torch.testing.assert_close(ours.lm_head.decoder.bias, theirs.cls.predictions.decoder.bias)


def test_few_rows_span_no_volume_and_new_ones_are_the_mean() -> None:
    model = build(BertModel, vocab_size=5)
    mean = model.embeddings.word_embeddings.weight.mean(0)
    table = model.resize_token_embeddings(7)
    torch.testing.assert_close(table.weight[5:], mean.expand(2, -1), rtol=0, atol=1e-12)


def test_rows_as_a_fresh_model_draws_them() -> None:
    model = build(BertForMaskedLM, tie_word_embeddings=False)
    model.lm_head.decoder.bias.data.fill_(3.0)
    table = model.resize_token_embeddings(2023, mean_resizing=False)
    for weight in (table.weight, model.lm_head.decoder.weight):
        assert abs(float(weight[23:].detach().std()) - 0.02) < 1e-3
        assert abs(float(weight[23:].detach().mean())) < 1e-3
    assert torch.equal(model.lm_head.decoder.bias[23:], torch.zeros(2000, dtype=torch.float64))
    assert not torch.equal(table.weight, model.lm_head.decoder.weight)


def test_resizing_by_a_multiple_and_without_arguments() -> None:
    model = build(BertModel)
    table = model.get_input_embeddings()
    weight = table.weight
    assert model.resize_token_embeddings() is table
    assert table.weight is weight
    assert model.resize_token_embeddings(pad_to_multiple_of=8).num_embeddings == model.config.vocab_size == 24
    assert model.resize_token_embeddings(33, 8).num_embeddings == 40
    table.weight.requires_grad_(False)
    assert not model.resize_token_embeddings(41).weight.requires_grad
    with pytest.raises(ValueError, match="at least 1, got 5, padded to a multiple of -1"):
        model.resize_token_embeddings(5, -1)


# --- running blocks again ---------------------------------------------------------------------------------------------


def learnt(model: Any, **given: Any) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(11)
    model(**given).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("padding", ["keep", "remove"])
@pytest.mark.parametrize(
    "name",
    ["BertForMaskedLM", "AlbertForMaskedLM", "MPNetForMaskedLM", "RobertaPreLayerNormForMaskedLM", "BertLMHeadModel"],
)
def test_gradient_checkpointing_changes_no_number(name: str, padding: str) -> None:
    """Dropout is replayed; blocks run twice, and only in training."""
    decodes = {"is_decoder": True} if "LMHead" in name else {}
    own = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
    model = build(getattr(minitrans, name), **decodes, **own).train()
    given = {"input_ids": IDS, "attention_mask": MASK, "labels": IDS.masked_fill(MASK == 0, -100), "padding": padding}
    expected, runs = learnt(model, **given), []
    model.base_model.encoder.layer[0].feed_forward.register_forward_hook(lambda *_: runs.append(1))
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    assert model.base_model.is_activation_checkpointing
    found = learnt(model, **given)
    per_pass = model.base_model.encoder.order.count(0)
    assert len(runs) == 2 * per_pass
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-13)
    model.eval()
    model(**given).loss.backward()
    assert len(runs) == 3 * per_pass
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    learnt(model.train(), **given)
    assert len(runs) == 4 * per_pass


class Chained(Variant):
    """Each block adds the values of the one before it, and leaves its own."""

    def project(self, query: Tensor, key: Tensor, value: Tensor, context: Any) -> tuple[Tensor, Tensor, Tensor]:
        value = value + context.shared.get("chained", 0.0)
        context.shared["chained"] = value
        return query, key, value


@pytest.mark.parametrize("attention", [Chained, "value_residual"])
def test_what_blocks_leave_for_each_other_is_found_again(attention: Any) -> None:
    model = build(BertForMaskedLM, attention=attention).train()
    expected = learnt(model, input_ids=IDS, labels=IDS)
    model.gradient_checkpointing_enable()
    found = learnt(model, input_ids=IDS, labels=IDS)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-13)


def test_a_decoder_whose_blocks_run_again_returns_no_cache_and_extends_a_given_one_once() -> None:
    model = build(BertLMHeadModel, is_decoder=True).train()
    model.activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": True}, every_n_layers=1, offload=False
    )
    assert model(IDS).past_key_values is None
    past = model.eval()(IDS).past_key_values
    out = model.train()(IDS, past_key_values=past)
    out.logits.sum().backward()
    assert past.get_seq_length() == 4


def test_what_cannot_be_had_of_it_is_refused() -> None:
    model = build(BertModel)
    for words in ({"every_n_layers": 2}, {"offload": True}):
        with pytest.raises(NotSupportedError, match="every block is run again.*leave out"):
            model.gradient_checkpointing_enable(**words)
    assert not model.is_gradient_checkpointing


def test_probabilities_and_frozen_tables_with_blocks_that_run_again() -> None:
    model = build(BertForSequenceClassification).train()
    model.requires_grad_(False)
    model.bert.encoder.layer[2].requires_grad_(True)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    out = model(IDS, labels=torch.tensor([0, 1]), output_attentions=True)
    assert len(out.attentions) == 3
    out.loss.backward()
    assert model.bert.encoder.layer[2].attention.query.weight.grad is not None
    seen: list[bool] = []
    model.bert.embeddings.word_embeddings.register_forward_hook(
        lambda module, given, out: seen.append(out.requires_grad)
    )
    model(IDS)
    model.disable_input_require_grads()
    model(IDS)
    assert seen == [True, False]


# --- sizes and attributes ---------------------------------------------------------------------------------------------


def test_sizes_are_the_reference_s() -> None:
    ours, theirs = BertForMaskedLM(BertConfig(**SIZES)), transformers.BertForMaskedLM(transformers.BertConfig(**SIZES))
    for model in (ours, theirs):
        for parameter in model.bert.embeddings.parameters():
            parameter.requires_grad_(False)
    for words in (
        {},
        {"only_trainable": True},
        {"exclude_embeddings": True},
        {"only_trainable": True, "exclude_embeddings": True},
    ):
        assert ours.num_parameters(**words) == theirs.num_parameters(**words)
    assert ours.get_memory_footprint(return_buffers=False) == theirs.get_memory_footprint(return_buffers=False)
    assert ours.get_memory_footprint() == sum(x.nbytes for x in (*ours.parameters(), *ours.buffers()))


def test_what_libraries_look_at() -> None:
    model = build(BertForQuestionAnswering)
    assert (model.main_input_name, model.base_model_prefix, model.supports_gradient_checkpointing) == (
        "input_ids",
        "bert",
        True,
    )
    assert model.base_model is model.bert
    assert model.get_output_embeddings() is None
    assert not model.can_generate()
    assert (model.dtype, model.device) == (torch.float64, torch.device("cpu"))
    assert model._keys_to_ignore_on_save is None


def test_what_a_loop_that_writes_text_gives_to_the_next_call() -> None:
    model = build(BertLMHeadModel, is_decoder=True)
    first = model(**model.prepare_inputs_for_generation(IDS[:, :3], use_cache=True))
    given = model.prepare_inputs_for_generation(IDS, first.past_key_values, use_cache=True)
    assert given["input_ids"].shape == (2, 1)
    torch.testing.assert_close(model(**given).logits[:, -1], model(IDS).logits[:, -1], rtol=0, atol=1e-12)


# --- outputs ----------------------------------------------------------------------------------------------------------


def test_outputs_can_be_assigned() -> None:
    out = build(BertForSequenceClassification)(IDS)
    out["input_ids"] = IDS
    out["logits"] = out["logits"] * 2
    assert list(out) == ["logits", "input_ids"]
    mapped = pytree.tree_map(lambda x: x + 1, out)
    assert torch.equal(mapped["input_ids"], IDS + 1)
    assert torch.equal(mapped.logits, out.logits + 1)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("name", ["BertModel", "DistilBertForSequenceClassification", "MPNetForQuestionAnswering"])
def test_a_model_is_traced_as_it_is(name: str) -> None:
    kind = getattr(minitrans, name)
    fields = {kind.config_class.own_names.get(field, field): value for field, value in SIZES.items()}
    model = kind(kind.config_class(**fields)).double().eval()
    graph = torch.jit.trace(model, (IDS, torch.ones_like(IDS)))
    ids, mask = torch.randint(5, 20, (3, 7)), torch.ones(3, 7, dtype=torch.long)
    mask[1, 2:] = 0
    found, expected = graph(ids, mask), model(ids, mask).to_tuple()
    assert isinstance(found, tuple)
    assert len(found) == len(expected)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


# --- where there are no values to look at -----------------------------------------------------------------------------

LABELS = {
    "BertForSequenceClassification": torch.tensor([1, 0]), "BertForMaskedLM": IDS, "BertForTokenClassification": IDS % 2,
    "ElectraForPreTraining": IDS % 2, "RobertaForSequenceClassification": torch.tensor([1, 0]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch has no rule for sdpa on a CPU
@pytest.mark.parametrize("name", LABELS)
def test_gradients_of_each_sample(name: str) -> None:
    model = build(getattr(minitrans, name))
    parameters = {key: value.detach() for key, value in model.named_parameters()}

    def loss(parameters: Any, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        given = {"attention_mask": mask[None], "labels": labels[None]}
        found: Tensor = functional_call(model, parameters, (ids[None],), given).loss
        return found

    each = vmap(grad(loss), in_dims=(None, 0, 0, 0))(parameters, IDS, MASK, LABELS[name])
    for row in range(2):
        alone = grad(loss)(parameters, IDS[row], MASK[row], LABELS[name][row])
        for key, value in alone.items():
            torch.testing.assert_close(each[key][row], value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("grads", [True, False])
@pytest.mark.parametrize("name", LABELS)
def test_shapes_without_values(name: str, grads: bool) -> None:
    kind = getattr(minitrans, name)
    for where in (torch.device("meta"), FakeTensorMode()):
        with where, torch.set_grad_enabled(grads):
            model = kind(kind.config_class(**SIZES)).eval()
            ids, mask = torch.zeros(128, 10, dtype=torch.long), torch.ones(128, 10)
            labels = ids[:, 0] if LABELS[name].dim() == 1 else ids
            out = model(ids, attention_mask=mask, labels=labels)
            assert out.loss.shape == ()
            assert model(ids, attention_mask=mask).logits.shape == out.logits.shape
            if grads:
                out.loss.backward()


@pytest.mark.filterwarnings("ignore:.*lru_cache.*:UserWarning")
@pytest.mark.parametrize("name", LABELS)
def test_an_exported_loss_is_of_any_size(name: str) -> None:
    model, open_size = build(getattr(minitrans, name)), torch.export.Dim.DYNAMIC
    grid = {0: open_size, 1: open_size}
    given = {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS[name].clone()}
    sizes = {**dict.fromkeys(given, grid), "labels": grid if LABELS[name].dim() == 2 else {0: open_size}}
    graph = torch.export.export(model, (), given, dynamic_shapes=sizes).module()
    ids, mask = torch.randint(5, 20, (5, 7)), torch.ones(5, 7, dtype=torch.long)
    mask[1, 2:] = 0
    other = {"input_ids": ids, "attention_mask": mask, "labels": ids % 2 if LABELS[name].dim() == 2 else ids[:, 0] % 2}
    found, expected = graph(**other), model(**other)
    torch.testing.assert_close(found.loss, expected.loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "BertForMaskedLM", "MPNetForQuestionAnswering"])
def test_one_graph_of_a_training_step_serves_every_size(name: str) -> None:
    torch._dynamo.reset()
    graphs: list[Any] = []
    model = build(getattr(minitrans, name)).train()
    step = torch.compile(
        model, fullgraph=True, dynamic=True, backend=lambda graph, given: (graphs.append(graph), graph.forward)[1]
    )
    for rows, length in ((2, 5), (3, 7), (6, 4)):
        ids, mask = torch.randint(5, 20, (rows, length)), torch.ones(rows, length, dtype=torch.long)
        mask[0, -1] = 0
        spans = {"start_positions": ids[:, 0] % 2, "end_positions": ids[:, 1] % 3}
        labels = {"labels": ids if "MaskedLM" in name else ids[:, 0] % 2} if "Question" not in name else spans
        step(input_ids=ids, attention_mask=mask, **labels).loss.backward()
    assert len(graphs) == 1
    torch._dynamo.reset()


def test_another_token_table_is_the_new_vocabulary():
    model = build(BertModel)
    model.set_input_embeddings(torch.nn.Embedding(31, 12, dtype=torch.float64))
    assert model.config.vocab_size == 31
    assert call(model).shape == (2, 4, 12)
    with_head = build(BertForMaskedLM)
    for whole in (with_head, with_head.base_model):
        with pytest.raises(ValueError, match=r"the head has 23 rows, the table 31: call resize_token_embeddings\(31\)"):
            whole.set_input_embeddings(torch.nn.Embedding(31, 12))
    assert with_head.config.vocab_size == 23
    assert with_head.get_input_embeddings().num_embeddings == 23


def test_padding_without_a_mask_is_said_where_a_forward_asks(caplog: pytest.LogCaptureFixture) -> None:
    model = build(BertModel)
    padded = torch.tensor([[5, 6, 0]])
    for ids, mask in ((IDS, None), (padded, torch.tensor([[1, 1, 0]]))):
        model.warn_if_padding_and_no_attention_mask(ids, mask)
    assert not caplog.records
    model.warn_if_padding_and_no_attention_mask(padded, None)
    assert "pad_token_id=0 and there is no attention_mask" in caplog.text


def test_what_scripts_ask_of_a_model() -> None:
    model = build(BertForSequenceClassification).eval()
    assert (model.num_labels, model.bert.num_labels) == (2, 2)
    expected = model(IDS).logits
    for name, backend in (("eager", "eager"), ("sdpa", "sdpa")):
        model.set_attn_implementation(name)
        assert {module.backend for module in model.bert.attentions} == {backend}
        torch.testing.assert_close(model(IDS).logits, expected)
    with pytest.raises(NotSupportedError, match="say attn_implementation='sdpa'"):
        model.set_attn_implementation("flash_attention_2")
