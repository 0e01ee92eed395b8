"""Without padding as with it: outputs on real tokens equal to 1e-12 in float64, padding gives zeros, gradients agree."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from minitrans import NotSupportedError, PackedLayout, RobertaConfig, RobertaModel
from minitrans.families import HEADS, auto_name, bodies, families_with
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.models.auto import model_class
from minitrans.models.padding import WORTH_IT
from tests.models.conftest import NEEDS_PADDING, with_global_tokens
from tests.tiny import fitted

FIELDS = {
    "vocab_size": 37, "hidden_size": 21, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 35,
    "max_position_embeddings": 40, "type_vocab_size": 2, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 4,
    "use_sliding_window": True, "max_window_layers": 1,
}  # fmt: skip
# of families with heads that may look at padding, which then keep it
PADDING_NOT_LOOKED_AT = {"roformer": {"summary_type": "first"}}
CASES = [
    (auto_name(head), family)
    for head in HEADS for family in families_with(head) if family in bodies() and family not in NEEDS_PADDING
]  # fmt: skip
LENGTHS = {
    "mixed": [7, 1, 13, 4],
    "one long": [2, 17, 1, 1],
    "all alike": [5, 5, 5, 5],
    "with an empty row": [3, 0, 9, 6],
}
PER_TOKEN = {"last_hidden_state", "start_logits", "end_logits", "prediction_logits"}


def own_fields(config_class, fields: dict) -> dict:
    """`fields`, which go by BERT's names, by those of the family, without what it lacks and without dropout."""
    known = {item.name for item in dataclasses.fields(config_class)}
    named = {config_class.own_names.get(name, name): value for name, value in fields.items()}
    without_dropout = {name: 0.0 for name in known if "dropout" in name}
    padding = {"pad_token_id": 1} if config_class.pad_token_id is None else {}
    return {**without_dropout, **padding, **{name: value for name, value in named.items() if name in known}}


def model(auto_name: str, family: str, **fields):
    cls = model_class(auto_name, family)
    torch.manual_seed(0)
    fields = {"is_decoder": auto_name == "AutoModelForCausalLM", "use_cache": False, **fields}
    fields = fitted(family, {**FIELDS, **PADDING_NOT_LOOKED_AT.get(family, {}), **fields})
    net = cls(cls.config_class(**own_fields(cls.config_class, fields))).double().eval()
    for module in net.modules():  # whatever each family calls its dropouts
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, MultiHeadAttention):
            module.dropout_p = 0.0
    return net


def batch(lengths: list[int], pad: int, *, left: bool = False) -> dict:
    width = max(lengths) + 2
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        start = width - length if left else 0
        mask[row, start : start + length] = 1
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 37, mask.shape, generator=generator).masked_fill(mask == 0, pad)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": torch.randint(0, 2, mask.shape, generator=generator),
    }


def close(ours: torch.Tensor, expected: torch.Tensor) -> bool:
    ours, expected = ours.detach(), expected.detach()
    return float((ours - expected).abs().max()) <= 1e-12 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("mix", LENGTHS)
@pytest.mark.parametrize(("auto_name", "family"), CASES)
def test_outputs_on_real_tokens_are_equal(auto_name: str, family: str, mix: str, left: bool):
    net = model(auto_name, family)
    inputs = with_global_tokens(net, batch(LENGTHS[mix], net.config.pad_token_id, left=left))
    real = inputs["attention_mask"].bool()
    if auto_name.endswith("MultipleChoice"):
        inputs = {name: value.view(2, 2, -1) for name, value in inputs.items()}
    net.set_padding("keep")
    expected = net(**inputs, output_hidden_states=True)
    net.set_padding("remove")
    got = net(**inputs, output_hidden_states=True)
    # what stands on the first token means something only where the first token is one
    first_is_real = real[:, 0]
    for name in set(expected.keys()) - {"hidden_states"}:
        ours, theirs = got[name], expected[name]
        assert ours.shape == theirs.shape
        if name in PER_TOKEN or (
            name == "logits" and ours.shape[:2] == real.shape and not auto_name.endswith("Choice")
        ):
            assert close(ours[real], theirs[real]), name
        elif bool(first_is_real.all()):
            assert close(ours, theirs), name
    for ours, theirs in zip(got.hidden_states, expected.hidden_states, strict=True):
        assert close(ours[real], theirs[real])
        assert (ours[~real] == 0).all()


@pytest.mark.parametrize(("auto_name", "family"), CASES)
def test_a_batch_of_nothing_but_padding(auto_name: str, family: str):
    net = model(auto_name, family)
    inputs = with_global_tokens(net, batch([0, 0, 0, 0], net.config.pad_token_id))
    if auto_name.endswith("MultipleChoice"):
        inputs = {name: value.view(2, 2, -1) for name, value in inputs.items()}
    net.set_padding("remove")
    got = net(**inputs, output_hidden_states=True)
    assert all(bool((states == 0).all()) for states in got.hidden_states)
    assert all(bool(got[name].isfinite().all()) for name in set(got.keys()) - {"hidden_states"})


@pytest.mark.parametrize(("auto_name", "family"), CASES)
def test_losses_and_gradients_are_equal(auto_name: str, family: str):
    padded = model(auto_name, family).train()
    packed = copy.deepcopy(padded)
    padded.set_padding("keep")
    packed.set_padding("remove")
    inputs = with_global_tokens(padded, batch(LENGTHS["mixed"], padded.config.pad_token_id))
    real = inputs["attention_mask"].bool()
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, 37, real.shape, generator=generator).masked_fill(~real, -100)
    tokens[:, 1::3] = -100
    if auto_name == "AutoModelForQuestionAnswering":
        # the padded run lets padding compete for the span (B5), the packed one does not: compare the scores instead
        weights = torch.linspace(-1, 1, real.numel(), dtype=torch.float64).view(real.shape) * real
        losses = [
            ((out := net(**inputs)).start_logits * weights + out.end_logits * weights).sum() for net in (padded, packed)
        ]
    elif auto_name == "AutoModel":
        losses = [net(**inputs).last_hidden_state[real].square().sum() for net in (padded, packed)]
    else:
        pairs = torch.tensor([0, 1, 1, 0])
        labels = {
            "AutoModelForMaskedLM": {"labels": tokens},
            "AutoModelForCausalLM": {"labels": tokens},
            "AutoModelForPreTraining": {
                "bert": {"labels": tokens, "next_sentence_label": pairs},
                "electra": {"labels": tokens % 2},
                "albert": {"labels": tokens, "sentence_order_label": pairs},
            }.get(family),
            "AutoModelForTokenClassification": {"labels": tokens.clamp(max=1)},
            "AutoModelForMultipleChoice": {"labels": torch.tensor([1, 0])},
        }.get(auto_name, {"labels": pairs})
        if auto_name == "AutoModelForMultipleChoice":
            inputs = {name: value.view(2, 2, -1) for name, value in inputs.items()}
        losses = [net(**inputs, **labels).loss for net in (padded, packed)]
    assert close(losses[1], losses[0])
    for loss in losses:
        loss.backward()
    scale = max(float(p.grad.abs().max()) for p in padded.parameters() if p.grad is not None)
    for (name, mine), theirs in zip(packed.named_parameters(), padded.parameters(), strict=True):
        if theirs.grad is not None:
            assert float((mine.grad - theirs.grad).abs().max()) <= 1e-12 * scale, name


def test_the_vocabulary_is_scored_only_where_labels_are():
    net = model("AutoModelForMaskedLM", "bert").train()
    net.set_padding("remove")
    inputs = batch([7, 3], 0)
    labels = torch.full((2, 9), -100)
    labels[0, 2], labels[1, 0] = 5, 6
    out = net(**inputs, labels=labels)
    assert out.logits.shape == (2, 37)
    net.eval()
    assert net(**inputs, labels=labels).logits.shape == (2, 9, 37)


@pytest.mark.parametrize(
    ("auto_name", "family"), [case for case in CASES if not case[0].endswith(("Choice", "Answering"))]
)
def test_batches_that_users_pack(auto_name: str, family: str):
    """RoBERTa positions restart after the padding id in every sequence (R7); all sequences of one length work too."""
    net = model(auto_name, family)
    for lengths in ([7, 1, 13, 4], [5, 5]):
        inputs = batch(lengths, net.config.pad_token_id)
        real = inputs["attention_mask"].bool()
        layout = PackedLayout.from_lengths(lengths)
        inputs = with_global_tokens(net, inputs)
        packed = {name: value[real] for name, value in inputs.items() if name != "attention_mask"}
        net.set_padding("keep")
        expected, got = (
            net(**inputs, output_hidden_states=True),
            net(**packed, layout=layout, output_hidden_states=True),
        )
        for name in set(expected.keys()) - {"hidden_states"}:
            theirs = expected[name][real] if expected[name].shape[:2] == real.shape else expected[name]
            assert close(got[name], theirs), name
        assert close(got.hidden_states[1], expected.hidden_states[1][real])


def test_the_next_token_is_that_of_the_same_sequence():
    net = model("AutoModelForCausalLM", "bert")
    inputs = batch([7, 1, 13, 4], net.config.pad_token_id)
    real = inputs["attention_mask"].bool()
    labels = inputs["input_ids"].masked_fill(~real, -100)
    net.set_padding("keep")
    padded = net(**inputs, labels=labels)
    packed = {name: inputs[name][real] for name in ("input_ids", "token_type_ids")}
    got = net(**packed, layout=PackedLayout.from_lengths([7, 1, 13, 4]), labels=labels[real])
    assert close(got.logits, padded.logits[real])
    assert close(got.loss, padded.loss)


def test_a_decoder_keeps_padding_where_it_keeps_a_cache():
    net = model("AutoModelForCausalLM", "bert")
    net.set_padding("remove")
    inputs = batch([7, 3], net.config.pad_token_id)
    with pytest.raises(NotSupportedError, match="does not go with use_cache; use padding='keep'"):
        net(**inputs, use_cache=True)
    with pytest.raises(ValueError, match="got 99"):  # even the first label, which no token predicts
        net(**inputs, labels=torch.full_like(inputs["input_ids"], 99))


def test_pack_is_the_door_for_users():
    import minitrans

    net = RobertaModel(RobertaConfig(**own_fields(RobertaConfig, FIELDS))).double().eval()
    rows = [[5, 6, 7], [8], [9, 10, 11, 12]]
    batch_of = minitrans.pack([{"input_ids": row} for row in rows])
    assert batch_of["input_ids"].tolist() == [5, 6, 7, 8, 9, 10, 11, 12]
    assert batch_of["layout"].cu_seqlens.tolist() == [0, 3, 4, 8]
    out = net(**batch_of)
    for row, hidden in zip(rows, out.last_hidden_state.split([3, 1, 4]), strict=True):
        assert close(hidden, net(torch.tensor([row])).last_hidden_state[0])
    padded = {"input_ids": torch.tensor([[5, 6, 7], [8, 1, 1]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]])}
    assert minitrans.pack(padded)["input_ids"].tolist() == [5, 6, 7, 8]
    with pytest.raises(ValueError, match="rows of different lengths"):
        minitrans.pack([{"input_ids": [5, 6], "token_type_ids": [0]}])
    with pytest.raises(ValueError, match="nothing to pack"):
        minitrans.pack([])
    with pytest.raises(TypeError, match="mapping with input_ids"):
        minitrans.pack("text")


def test_auto_removes_padding_where_it_pays():
    net = model("AutoModel", "bert", max_position_embeddings=512, hidden_size=24, num_attention_heads=2)
    length = WORTH_IT // 24 // 15 + 6
    ids = torch.randint(1, 37, (16, min(length, 512)))
    mask = torch.zeros_like(ids)
    mask[:, :5] = 1
    mask[0] = 1
    with torch.no_grad():
        auto = net(ids, mask, unpack=False)
        assert auto.packing is not None
        assert net(ids, mask, unpack=False, output_attentions=True).packing is None
        assert net(ids[:, :6], mask[:, :6], unpack=False).packing is None, "too little to save"
    assert net(ids, mask, unpack=False).packing is None, "gradients may be wanted"


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda net, i: net(**i, output_attentions=True), NotSupportedError, "does not go with output_attentions"),
        (lambda net, i: net(i["input_ids"], torch.tensor([[1, 0, 1, 1, 1]])), NotSupportedError, "without holes"),
        (lambda net, i: net(i["input_ids"][0], i["attention_mask"], layout=PackedLayout.from_lengths([5])), ValueError, "no attention_mask"),
        (lambda net, i: net(i["input_ids"][0], layout=PackedLayout.from_lengths([4])), ValueError, "layout of 4 tokens"),
        (
            lambda net, i: net(i["input_ids"][0], layout=PackedLayout.from_lengths([5]), output_attentions=True),
            NotSupportedError, "a packed batch does not go with output_attentions",
        ),
        (lambda net, i: net.set_padding("drop"), ValueError, "padding must be one of"),
    ],
)  # fmt: skip
def test_what_does_not_go(call, kind, message: str):
    net = model("AutoModel", "bert")
    net.set_padding("remove")
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 1, 0]])}
    with pytest.raises(kind, match=message):
        call(net, inputs)


def test_labels_at_padding_are_refused():
    net = model("AutoModelForTokenClassification", "bert").train()
    net.set_padding("remove")
    inputs = batch([4, 2], 0)
    with pytest.raises(ValueError, match="labels at padding"):
        net(**inputs, labels=torch.zeros(2, 6, dtype=torch.long))
    net.set_padding("auto")
    assert net(**inputs, labels=torch.zeros(2, 6, dtype=torch.long)).logits.abs().min() > 0
