"""Number for number: every family and head against the reference, forward, loss and gradients.

In float64 both compute the same sums in nearly the same order, so that what separates them is rounding: 1e-10 relative leaves
five digits of room above 1e-16 times the length of the sums, and is far below any slip (a wrong eps moves 1e-6 and more).
"""

from __future__ import annotations

import copy
import inspect
import zlib

import pytest
import torch
from torch.nn import functional as F

from minitrans.families import FAMILIES, HEADS, bodies, families_with
from minitrans.models.auto import config_class
from tests.models.conftest import UNDEFINED_AT_PADDING

CASES = [(family, head) for head in HEADS for family in families_with(head) if family in bodies()]
DECODERS = [family for family in families_with("ForCausalLM") if family in bodies()]
CROSSING = [family for family in DECODERS if "add_cross_attention" in config_class(family).__dataclass_fields__]

ODD = {"vocab_size": 37, "hidden_size": 21, "num_attention_heads": 3, "num_hidden_layers": 3, "intermediate_size": 35}
CONFIGS = {
    "plain": {
        **ODD, "max_position_embeddings": 29, "type_vocab_size": 2, "layer_norm_eps": 1e-5, "embedding_size": 13,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "num_hidden_groups": 2,
    },
    "one head, gelu_new, big eps": {
        **ODD, "num_attention_heads": 1, "num_hidden_layers": 1, "hidden_act": "gelu_new", "layer_norm_eps": 0.03,
        "max_position_embeddings": 19, "type_vocab_size": 3, "classifier_dropout": 0.4, "embedding_size": 21,
    },
    "narrow, quick_gelu, untied, no dropout": {
        **ODD, "hidden_size": 10, "num_attention_heads": 5, "intermediate_size": 3, "hidden_act": "quick_gelu",
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "tie_word_embeddings": False,
        "max_position_embeddings": 40, "type_vocab_size": 1, "pad_token_id": 3, "layer_norm_eps": 1e-12,
        "embedding_size": 17, "num_hidden_groups": 3, "inner_group_num": 2,
    },
}  # fmt: skip
B, T = 4, 11
# What only one family knows.
OWN = {
    "one head, gelu_new, big eps": {
        "nystromformer": {"conv_kernel_size": 3},
        "big_bird": {"attention_type": "original_full", "rescale_embeddings": True},
        "deberta-v2": {
            "pos_att_type": ["p2c"], "position_buckets": -1, "max_relative_positions": 5, "share_att_key": False,
            "norm_rel_ebd": "none", "position_biased_input": True, "conv_kernel_size": 0, "pooler_dropout": 0.2,
            "cls_dropout": 0.3, "pooler_hidden_act": "tanh",
        },
    },
    "narrow, quick_gelu, untied, no dropout": {
        "longformer": {"attention_window": [4, 6, 4]},
        "big_bird": {"block_size": 1, "num_random_blocks": 1},
        "nystromformer": {"num_landmarks": 3, "segment_means_seq_len": 3, "conv_kernel_size": 1},
        "deberta-v2": {
            "share_att_key": False, "position_buckets": 6, "max_relative_positions": 7, "conv_kernel_size": 5, "conv_groups": 5,
            "conv_act": "gelu",
        },
    },
}  # fmt: skip
POOLED = ("ForSequenceClassification", "ForMultipleChoice", "ForPreTraining", "ForNextSentencePrediction")


def is_causal(family: str, head: str) -> bool:
    return head == "ForCausalLM" or (family in FAMILIES and getattr(config_class(family), "is_decoder", False))


def batch(fields: dict, head: str, padded: bool, family: str = "") -> dict:
    """Random ids; with padding: on the right, on the left, and none, pads inside the mask and as ids."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr((sorted(fields.items()), head)).encode()))
    pad = fields.get("pad_token_id", 1)
    ids = torch.randint(4, fields["vocab_size"], (B, T), generator=generator)
    inputs = {"input_ids": ids}
    if padded:
        mask = torch.ones(B, T, dtype=torch.long)
        mask[1, 7:] = 0
        # padding on the left gives a decoder rows with nothing to attend to: see below
        if not is_causal(family, head) and not (family in UNDEFINED_AT_PADDING and head in POOLED):
            mask[2, :3] = 0
        inputs["attention_mask"] = mask
        inputs["input_ids"] = ids.masked_fill(mask == 0, pad)
    if family == "longformer":  # three separators tell its heads which tokens are global (L4)
        inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == 2, 5)
        inputs["input_ids"][:, [3, 5, 6]] = 2
    types = torch.randint(0, fields["type_vocab_size"], (B, T), generator=generator)
    inputs["token_type_ids"] = types
    if head == "ForMultipleChoice":
        inputs = {name: value.view(2, 2, T) for name, value in inputs.items()}
    return inputs


def labels(fields: dict, head: str, family: str) -> dict:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, fields["vocab_size"], (B, T), generator=generator)
    tokens[:, ::3] = -100
    classes = torch.randint(0, 2, (B,), generator=generator)
    if (family, head) == ("electra", "ForPreTraining"):
        return {"labels": tokens % 2}
    if (family, head) == ("albert", "ForPreTraining"):
        return {"labels": tokens, "sentence_order_label": classes}
    return {
        "Model": {},
        "ForMaskedLM": {"labels": tokens},
        "ForCausalLM": {"labels": tokens},
        "ForPreTraining": {"labels": tokens, "next_sentence_label": classes},
        "ForNextSentencePrediction": {"labels": classes},
        "ForSequenceClassification": {"labels": classes},
        "ForTokenClassification": {"labels": tokens.clamp(max=1)},
        "ForQuestionAnswering": {
            "start_positions": torch.tensor([0, 3, -2, 99]),
            "end_positions": torch.tensor([2, 3, 5, 10]),
        },
        "ForMultipleChoice": {"labels": torch.tensor([1, 0])},
    }[head]


def fields_for(name: str, head: str, family: str = "") -> dict:
    own = OWN.get(name, {}).get(family, {})
    return {**CONFIGS[name], **own, **({"is_decoder": True} if head == "ForCausalLM" else {})}


def defined(value: torch.Tensor, inputs: dict, family: str) -> torch.Tensor:
    """Without what means nothing: what stands at padding, where the family says nothing about it."""
    mask = inputs.get("attention_mask")
    mask = None if mask is None else mask.flatten(0, -2).bool()
    if family not in UNDEFINED_AT_PADDING or mask is None or value.shape[:2] != mask.shape:
        return value
    return value[mask]


def run(model, inputs: dict, targets: dict, *, reference: bool, causal: bool, family: str = ""):
    """One forward under a fixed seed; the scalar to differentiate: the loss, or for a body a fixed projection of its output."""
    torch.manual_seed(11)
    if family in UNDEFINED_AT_PADDING and "attention_mask" in inputs:
        if "start_positions" in targets:  # padding competes for the span (B5)
            out = model(**inputs, output_hidden_states=True, output_attentions=True)
            ends = [defined(out[name], inputs, family) for name in ("start_logits", "end_logits")]
            weights = torch.linspace(-1, 1, ends[0].numel(), dtype=torch.float64)
            return out, ends[0] @ weights + ends[1].square() @ weights
        if targets and targets["labels"].shape == inputs["attention_mask"].shape:
            targets = {"labels": targets["labels"].masked_fill(inputs["attention_mask"] == 0, -100)}
    with_labels = {} if reference and causal else targets
    out = model(**inputs, **with_labels, output_hidden_states=True, output_attentions=True)
    if reference and causal:  # the reference rounds these logits to float32 before its loss
        shifted = out.logits[:, :-1].flatten(0, 1), targets["labels"][:, 1:].flatten()
        return out, F.cross_entropy(*shifted)
    if "loss" in out.keys():  # noqa: SIM118
        if (
            reference and out["loss"].dtype == torch.float32 and family == "deberta-v2"
        ):  # ... and the logits of DeBERTa's classes
            loss = F.cross_entropy(out.logits, targets["labels"])
            torch.testing.assert_close(loss.float(), out["loss"])
            return out, loss
        if (
            reference and out["loss"].dtype == torch.float32
        ):  # ... and the labels of replaced tokens, with their loss (E1)
            real = inputs.get("attention_mask", torch.ones_like(targets["labels"])) == 1
            loss = F.binary_cross_entropy_with_logits(out.logits[real], targets["labels"][real].double())
            torch.testing.assert_close(loss.float(), out["loss"])
            return out, loss
        return out, out["loss"]
    last = defined(out["last_hidden_state"], inputs, family)
    weights = torch.linspace(-1, 1, last.numel(), dtype=torch.float64)
    scalar = (last.flatten() * weights).sum()
    return out, scalar + out["pooler_output"].sum() if "pooler_output" in out.keys() else scalar  # noqa: SIM118


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("family", "head"), CASES, ids=lambda value: value)
def test_float64_forward_loss_and_gradients(pair, error, family: str, head: str, config: str, padded: bool):
    """In train mode, with dropout drawn from the same seed: forward, losses and every gradient."""
    fields = fields_for(config, head, family)
    models = pair(family, head, **fields)
    inputs, targets = batch(fields, head, padded, family), labels(fields, head, family)
    causal = head == "ForCausalLM"
    expected, expected_loss = run(models.reference, inputs, targets, reference=True, causal=causal, family=family)
    got, loss = run(models.ours, inputs, targets, reference=False, causal=causal, family=family)

    assert len(got.hidden_states) > fields["num_hidden_layers"]
    for layer, (ours, theirs) in enumerate(zip(got.hidden_states, expected.hidden_states, strict=True)):
        assert error(*(defined(each, inputs, family) for each in (ours, theirs))) <= 1e-10, f"hidden state {layer}"
    names = set(got.keys()) - {"hidden_states", "attentions", "past_key_values", "loss"}
    assert names <= set(expected.keys())
    for name in names:
        assert error(*(defined(each[name], inputs, family) for each in (got, expected))) <= 1e-10, name
    assert error(loss, expected_loss) <= 1e-10

    expected_loss.backward()
    loss.backward()
    gradients = models.gradients()
    # gradients that are zero in exact arithmetic (key biases) hold rounding only: measured against the largest gradient
    floor = 1e-4 * max(float(theirs.abs().max()) for _, _, theirs in gradients)
    for name, ours, theirs in gradients:
        assert error(ours, theirs, floor) <= 1e-10, name


@pytest.mark.parametrize("backend", ["sdpa", "online_softmax", "triton", "auto"])
@pytest.mark.parametrize(
    ("family", "head"), [case for case in CASES if case[0] in ("bert", "camembert")], ids=lambda v: v
)
def test_every_backend_in_float64(pair, error, family: str, head: str, backend: str):
    fields = {**fields_for("plain", head), "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    models = pair(family, head, **fields)
    models.ours.set_attention("full", backend)
    causal = head == "ForCausalLM"
    inputs, targets = batch(fields, head, True, family), labels(fields, head, family)
    expected, expected_loss = run(models.reference, inputs, targets, reference=True, causal=causal)
    got, loss = run(models.ours, inputs, targets, reference=False, causal=causal)
    assert error(got.hidden_states[-1], expected.hidden_states[-1]) <= 1e-10
    for ours, theirs in zip(got.attentions, expected.attentions, strict=True):
        assert error(ours, theirs) <= 1e-10
    expected_loss.backward()
    loss.backward()
    gradients = models.gradients()
    floor = 1e-4 * max(float(theirs.abs().max()) for _, _, theirs in gradients)
    for name, ours, theirs in gradients:
        assert error(ours, theirs, floor) <= 1e-10, name


@pytest.mark.parametrize(("family", "head"), CASES, ids=lambda value: value)
def test_float32_is_within_1e_5_of_float64(pair, error, family: str, head: str):
    fields = fields_for("plain", head)
    models = pair(family, head, **fields)
    single = copy.deepcopy(models.ours).float().eval()
    single.set_attention("full", "auto")
    inputs = batch(fields, head, True, family)
    expected = models.reference.eval()(**inputs, output_hidden_states=True)
    got = single(**inputs, output_hidden_states=True)
    for name in set(got.keys()) - {"hidden_states", "past_key_values"}:
        assert error(*(defined(each[name].double(), inputs, family) for each in (got, expected))) <= 1e-5, name
    for ours, theirs in zip(got.hidden_states, expected.hidden_states, strict=True):
        assert error(*(defined(each.double(), inputs, family) for each in (ours, theirs))) <= 1e-5


@pytest.mark.parametrize("family", bodies())
@pytest.mark.parametrize(
    ("problem", "num_labels", "targets"),
    [
        (None, 1, torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)),
        (None, 3, torch.tensor([2, 0, 1, 1])),
        (None, 3, torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]], dtype=torch.float64)),
        ("regression", 3, torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)),
        ("multi_label_classification", 1, torch.tensor([[0.0], [1], [1], [0]], dtype=torch.float64)),
    ],
    ids=["regression", "single label", "multi label", "regression of three", "one of many labels"],
)
def test_problem_types(pair, error, family: str, problem, num_labels: int, targets):
    fields = {**CONFIGS["plain"], "num_labels": num_labels, "problem_type": problem}
    models = pair(family, "ForSequenceClassification", **fields)
    inputs = batch(fields, "ForSequenceClassification", True, family)
    torch.manual_seed(2)
    expected = models.reference(**inputs, labels=targets)
    torch.manual_seed(2)
    got = models.ours(**inputs, labels=targets)
    assert error(got.loss, expected.loss) <= (1e-10 if expected.loss.dtype == torch.float64 else 1e-6)
    assert models.ours.config.problem_type == problem, "a forward must not write into the configuration (B5)"


@pytest.mark.parametrize("family", [family for family in CROSSING if family != "big_bird"])  # see test_big_bird.py
def test_decoder_with_cross_attention_and_cache(pair, error, family: str):
    """B7: cross-attention, causal mask, and step by step with a cache as all at once."""
    fields = {**CONFIGS["plain"], "is_decoder": True, "add_cross_attention": True}
    models = pair(family, "ForCausalLM", **fields)
    models.reference.eval()
    models.ours.eval()
    inputs = batch(fields, "ForCausalLM", True)
    generator = torch.Generator().manual_seed(5)
    memory = torch.randn(B, 6, models.config.hidden_size, generator=generator, dtype=torch.float64)
    memory_mask = torch.ones(B, 6, dtype=torch.long)
    memory_mask[0, 4:] = 0
    across = {"encoder_hidden_states": memory, "encoder_attention_mask": memory_mask}
    expected = models.reference(**inputs, **across, output_attentions=True)
    got = models.ours(**inputs, **across, output_attentions=True)
    assert error(got.logits, expected.logits) <= 1e-10
    for ours, theirs in zip(got.cross_attentions, expected.cross_attentions, strict=True):
        assert error(ours, theirs) <= 1e-10

    cache, steps = None, []
    for start, end in ((0, 4), (4, 5), (5, 9), (9, T)):
        part = {name: value[:, start:end] for name, value in inputs.items() if name != "attention_mask"}
        part["attention_mask"] = inputs["attention_mask"][:, :end]
        before = None if cache is None else cache.get_seq_length()
        step = models.ours(**part, **across, past_key_values=cache, use_cache=True)
        assert cache is None or cache.get_seq_length() == before, "a forward must not change the cache it was given"
        cache = step.past_key_values
        steps.append(step.logits)
    # padding behind the text gets other numbers step by step, because all at once nothing looks at its positions either
    real = inputs["attention_mask"].bool()
    assert error(torch.cat(steps, dim=1)[real], got.logits[real]) <= 1e-10


@pytest.mark.parametrize("family", DECODERS)
def test_decoder_padded_on_the_left(pair, error, family: str):
    """Rows that see nothing are zero here and a uniform average in the reference (M2); real tokens agree."""
    fields = {**CONFIGS["plain"], "is_decoder": True}
    models = pair(family, "ForCausalLM", **fields)
    ids = torch.randint(4, 37, (2, T), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, T, dtype=torch.long)
    mask[0, :4] = 0
    real = mask.bool()
    expected = models.reference.eval()(ids, attention_mask=mask).logits
    got = models.ours.eval()(ids, attention_mask=mask).logits
    assert error(got[real], expected[real]) <= 1e-10
    assert torch.isfinite(got).all()


@pytest.mark.parametrize("family", bodies())
def test_inputs_embeds_and_position_ids(pair, error, family: str):
    fields = CONFIGS["plain"]
    models = pair(family, "Model", **fields)
    models.reference.eval()
    models.ours.eval()
    vectors = torch.randn(
        B, T, models.config.embedding_size, dtype=torch.float64, generator=torch.Generator().manual_seed(4)
    )
    mine, theirs = vectors.clone().requires_grad_(), vectors.clone().requires_grad_()
    got, expected = models.ours(inputs_embeds=mine), models.reference(inputs_embeds=theirs)
    assert error(got[0], expected[0]) <= 1e-10
    got[0].square().sum().backward()
    expected[0].square().sum().backward()
    assert error(mine.grad, theirs.grad) <= 1e-10
    if "position_ids" not in inspect.signature(models.reference.forward).parameters:
        return
    ids = torch.randint(4, 37, (B, T))
    positions = torch.arange(T).flip(0)[None]
    assert error(models.ours(ids, position_ids=positions)[0], models.reference(ids, position_ids=positions)[0]) <= 1e-10


@pytest.mark.parametrize("kind", ["bool", "float", "float with -inf"])
def test_square_masks(pair, error, kind: str):
    """4-D masks: bool says who sees whom, floats are added."""
    models = pair("bert", "Model", **CONFIGS["plain"])
    ids = torch.randint(4, 37, (B, T), generator=torch.Generator().manual_seed(1))
    allowed = torch.rand(B, 1, T, T, generator=torch.Generator().manual_seed(2)) > 0.4
    allowed |= torch.eye(T, dtype=torch.bool)
    scores = torch.randn(B, 1, T, T, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    lowest = -torch.inf if "inf" in kind else torch.finfo(torch.float64).min
    added = torch.where(allowed, scores if kind != "bool" else torch.zeros_like(scores), lowest)
    expected = models.reference.eval()(ids, attention_mask=added)[0]
    got = models.ours.eval()(ids, attention_mask=allowed if kind == "bool" else added)[0]
    assert error(got, expected) <= 1e-10
