"""What users may count on: parameter names, outputs, and a forward that changes nothing."""

from __future__ import annotations

import copy
import dataclasses
import re

import pytest
import torch

import minitrans
from minitrans import families
from minitrans.families import FAMILIES, class_names
from minitrans.models.auto import class_by_name, model_class
from tests.models.conftest import with_global_tokens
from tests.tiny import fitted

TINY = {
    "vocab_size": 23, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 16,
    "max_position_embeddings": 10, "type_vocab_size": 2, "num_key_value_heads": 1, "head_dim": 4,
}  # fmt: skip
OF_BERT = {name: size for name, size in TINY.items() if name not in ("num_key_value_heads", "head_dim")}
IDS = torch.tensor([[5, 6, 7, 8], [8, 9, 10, 11]])
BODY = {
    "embeddings.word_embeddings.weight": (23, 12),
    "embeddings.position_embeddings.weight": (10, 12),
    "embeddings.token_type_embeddings.weight": (2, 12),
    "embeddings.LayerNorm.weight": (12,),
    "embeddings.LayerNorm.bias": (12,),
    **{f"encoder.layer.0.attention.{name}.weight": (12, 12) for name in ("query", "key", "value", "output")},
    **{f"encoder.layer.0.attention.{name}.bias": (12,) for name in ("query", "key", "value", "output")},
    **{f"encoder.layer.0.attention_LayerNorm.{name}": (12,) for name in ("weight", "bias")},
    "encoder.layer.0.feed_forward.up.weight": (16, 12),
    "encoder.layer.0.feed_forward.up.bias": (16,),
    "encoder.layer.0.feed_forward.down.weight": (12, 16),
    "encoder.layer.0.feed_forward.down.bias": (12,),
    **{f"encoder.layer.0.feed_forward_LayerNorm.{name}": (12,) for name in ("weight", "bias")},
}
POOLER = {"pooler.dense.weight": (12, 12), "pooler.dense.bias": (12,)}
CROSS = {
    **{f"encoder.layer.0.cross_attention.{name}.weight": (12, 12) for name in ("query", "key", "value", "output")},
    **{f"encoder.layer.0.cross_attention.{name}.bias": (12,) for name in ("query", "key", "value", "output")},
    **{f"encoder.layer.0.cross_attention_LayerNorm.{name}": (12,) for name in ("weight", "bias")},
}
LM = {
    "lm_head.dense.weight": (12, 12),
    "lm_head.dense.bias": (12,),
    "lm_head.LayerNorm.weight": (12,),
    "lm_head.LayerNorm.bias": (12,),
    "lm_head.decoder.weight": (23, 12),
    "lm_head.decoder.bias": (23,),
}
CLASSIFIER = {"classifier.weight": (2, 12), "classifier.bias": (2,)}
HEADS = {
    "ForMaskedLM": ({}, LM),
    "ForCausalLM": (CROSS, LM),
    "ForPreTraining": (POOLER, {**LM, "seq_relationship.weight": (2, 12), "seq_relationship.bias": (2,)}),
    "ForNextSentencePrediction": (POOLER, {"seq_relationship.weight": (2, 12), "seq_relationship.bias": (2,)}),
    "ForSequenceClassification": (POOLER, CLASSIFIER),
    "ForTokenClassification": ({}, CLASSIFIER),
    "ForQuestionAnswering": ({}, {"qa_outputs.weight": (2, 12), "qa_outputs.bias": (2,)}),
    "ForMultipleChoice": (POOLER, {"classifier.weight": (1, 12), "classifier.bias": (1,)}),
}
TWO_LAYERS = {
    "classifier.dense.weight": (12, 12),
    "classifier.dense.bias": (12,),
    "classifier.out_proj.weight": (2, 12),
    "classifier.out_proj.bias": (2,),
}
GPT2 = {
    **{name: shape for name, shape in BODY.items() if "token_type" not in name and "embeddings.LayerNorm" not in name},
    "encoder.LayerNorm.weight": (12,),
    "encoder.LayerNorm.bias": (12,),
}
LLAMA = {
    "embeddings.word_embeddings.weight": (23, 12),
    **{f"encoder.layer.0.attention.{name}.weight": (12, 12) for name in ("query", "output")},
    **{f"encoder.layer.0.attention.{name}.weight": (4, 12) for name in ("key", "value")},
    "encoder.layer.0.attention_LayerNorm.weight": (12,),
    **{f"encoder.layer.0.feed_forward.{name}.weight": (16, 12) for name in ("gate", "up")},
    "encoder.layer.0.feed_forward.down.weight": (12, 16),
    "encoder.layer.0.feed_forward_LayerNorm.weight": (12,),
    "encoder.LayerNorm.weight": (12,),
}
QWEN2 = {
    **LLAMA,
    **{f"encoder.layer.0.attention.{name}.bias": (size,) for name, size in (("query", 12), ("key", 4), ("value", 4))},
}
QWEN3 = {**LLAMA, **{f"encoder.layer.0.attention.own.0.{name}_weight": (4,) for name in ("query", "key")}}
GEMMA2 = {
    **{re.sub(r"(output|down)\.weight", r"\1.projection.weight", name): shape for name, shape in LLAMA.items()},
    **{f"encoder.layer.0.{name}.LayerNorm.weight": (12,) for name in ("attention.output", "feed_forward.down")},
}
SCORES = {"label_scores.weight": (2, 12), "label_scores.bias": (2,)}
OF_LLAMA = {
    "ForCausalLM": ({}, {"lm_head.weight": (23, 12)}),
    "ForSequenceClassification": ({}, {"label_scores.weight": (2, 12)}),
    "ForTokenClassification": ({}, SCORES),
}
PLAIN = {
    "ForCausalLM": (CROSS, {"lm_head.weight": (23, 12)}),
    "ForSequenceClassification": ({}, {"label_scores.weight": (2, 12)}),
}
NO_BIASES = {
    name: shape
    for name, shape in BODY.items()
    if "position" not in name and not (name.endswith("bias") and "LayerNorm" not in name)
} | {"encoder.layer.0.feed_forward.gate.weight": (16, 12)}
FNET = {name: shape for name, shape in BODY.items() if "attention." not in name} | {
    "embeddings.projection.weight": (12, 12),
    "embeddings.projection.bias": (12,),
}
MODERN_HEAD = {"lm_head.dense.weight": (12, 12), "lm_head.LayerNorm.weight": (12,)}
# what each architecture has otherwise: its body, its heads, the prefix of the body in them, whether there is a pooler
ROBERTA = (BODY, {"ForSequenceClassification": ({}, TWO_LAYERS)}, "roberta", True)  # R5, R6
PRE = {"pre_classifier.weight": (12, 12), "pre_classifier.bias": (12,)}
ARCHITECTURES = {
    "bert": (BODY, {}, "bert", True),
    "roformer": (
        {
            **{name: shape for name, shape in BODY.items() if "position" not in name},
            "encoder.turns.weight": (10, 4),
        },  # RF1
        {
            "ForSequenceClassification": ({}, TWO_LAYERS),
            "ForMultipleChoice": ({}, {"classifier.weight": (1, 12), "classifier.bias": (1,)}),
        },
        "roformer",
        False,
    ),
    "fnet": (FNET, {task: ({**POOLER, **below}, head) for task, (below, head) in HEADS.items()}, "fnet", True),
    "nomic_bert": (NO_BIASES, {}, "nomic_bert", False),  # NB1
    "modernbert": (
        {
            "encoder.LayerNorm.weight": (12,),
            **{  # N1
                name: shape
                for name, shape in NO_BIASES.items()
                if not name.endswith("bias") and "token_type" not in name and "attention_LayerNorm" not in name
            },
        },
        {
            "ForMaskedLM": ({}, {**MODERN_HEAD, "lm_head.decoder.weight": (23, 12), "lm_head.decoder.bias": (23,)}),
            "ForSequenceClassification": ({}, {**MODERN_HEAD, **CLASSIFIER}),
            "ForTokenClassification": ({}, {**MODERN_HEAD, **CLASSIFIER}),
            "ForQuestionAnswering": ({}, {**MODERN_HEAD, **CLASSIFIER}),
            "ForMultipleChoice": ({}, {**MODERN_HEAD, "classifier.weight": (1, 12), "classifier.bias": (1,)}),
        },
        "model",
        False,
    ),
    "roberta-prelayernorm": (
        {**BODY, **{f"encoder.LayerNorm.{name}": (12,) for name in ("weight", "bias")}},  # R6
        {"ForSequenceClassification": ({}, TWO_LAYERS)},
        "roberta_prelayernorm",
        True,
    ),
    "albert": (
        {**BODY, "embeddings.projection.weight": (12, 12), "embeddings.projection.bias": (12,)},  # A1
        {"ForPreTraining": (POOLER, {**LM, "sop_classifier.weight": (2, 12), "sop_classifier.bias": (2,)})},
        "albert",
        True,
    ),
    "electra": (
        BODY,
        {
            "ForPreTraining": (
                {},
                {
                    "discriminator_predictions.dense.weight": (12, 12),
                    "discriminator_predictions.dense.bias": (12,),
                    "discriminator_predictions.dense_prediction.weight": (1, 12),
                    "discriminator_predictions.dense_prediction.bias": (1,),
                },
            ),
            "ForSequenceClassification": ({}, TWO_LAYERS),
            "ForMultipleChoice": (
                {},
                {
                    "summary.weight": (12, 12),
                    "summary.bias": (12,),
                    "classifier.weight": (1, 12),
                    "classifier.bias": (1,),
                },
            ),
        },
        "electra",
        False,
    ),
    "gpt2": (GPT2, PLAIN, "transformer", False),
    "llama": (LLAMA, OF_LLAMA, "model", False),
    "mistral": (LLAMA, OF_LLAMA, "model", False),
    "qwen2": (QWEN2, OF_LLAMA, "model", False),
    "qwen3": (QWEN3, OF_LLAMA, "model", False),
    "gemma2": (GEMMA2, OF_LLAMA, "model", False),
    "mpnet": (
        {
            **{name: shape for name, shape in BODY.items() if "token_type" not in name},
            "encoder.relative_attention_bias.weight": (32, 3),  # P1
        },
        {"ForSequenceClassification": ({}, TWO_LAYERS)},
        "mpnet",
        True,
    ),
    "big_bird": (
        BODY,
        {
            "ForMaskedLM": (POOLER, LM),  # BB3
            "ForCausalLM": ({**CROSS, **POOLER}, LM),
            "ForSequenceClassification": (POOLER, TWO_LAYERS),
            "ForTokenClassification": (POOLER, CLASSIFIER),
            "ForQuestionAnswering": (
                {},
                {
                    "qa_classifier.feed_forward.up.weight": (16, 12),
                    "qa_classifier.feed_forward.up.bias": (16,),
                    "qa_classifier.feed_forward.down.weight": (12, 16),
                    "qa_classifier.feed_forward.down.bias": (12,),
                    "qa_classifier.LayerNorm.weight": (12,),
                    "qa_classifier.LayerNorm.bias": (12,),
                    "qa_classifier.qa_outputs.weight": (2, 12),
                    "qa_classifier.qa_outputs.bias": (2,),
                },
            ),
        },
        "bert",
        True,
    ),
    "nystromformer": (
        {
            **BODY,
            "embeddings.position_embeddings.weight": (12, 12),  # Y1
            "encoder.layer.0.attention.own.0.conv.weight": (3, 1, 65, 1),
        },
        {
            "ForSequenceClassification": ({}, TWO_LAYERS),
            "ForMultipleChoice": ({}, {**PRE, "classifier.weight": (1, 12), "classifier.bias": (1,)}),
        },
        "nystromformer",
        False,
    ),
    "longformer": (
        {
            **BODY,
            **{
                f"encoder.layer.0.attention.own.0.{kind}_global.{part}": shape  # L3
                for kind in ("query", "key", "value")
                for part, shape in (("weight", (12, 12)), ("bias", (12,)))
            },
        },
        {"ForSequenceClassification": ({}, TWO_LAYERS)},
        "longformer",
        True,
    ),
    "deberta-v2": (
        {
            **{name: shape for name, shape in BODY.items() if "position" not in name},
            "encoder.relative_embeddings.weight": (512, 12),  # V1
            **{f"encoder.relative_embeddings.LayerNorm.{name}": (12,) for name in ("weight", "bias")},
        },
        {
            "ForSequenceClassification": ({}, {**POOLER, **CLASSIFIER}),
            "ForMultipleChoice": ({}, {**POOLER, "classifier.weight": (1, 12), "classifier.bias": (1,)}),
        },
        "deberta",
        False,
    ),
    "distilbert": (
        {name: shape for name, shape in BODY.items() if "token_type" not in name},  # D1
        {
            "ForSequenceClassification": ({}, {**PRE, **CLASSIFIER}),  # D2
            "ForMultipleChoice": ({}, {**PRE, "classifier.weight": (1, 12), "classifier.bias": (1,)}),
        },
        "distilbert",
        False,
    ),
}


def own_fields(config_class, fields: dict) -> dict:
    """`fields`, which go by BERT's names, by those of the family, without what it lacks."""
    known = {item.name for item in dataclasses.fields(config_class)}
    named = {config_class.own_names.get(name, name): value for name, value in fields.items()}
    return {name: value for name, value in named.items() if name in known}


def build(auto_name: str, model_type: str):
    cls = model_class(auto_name, model_type)
    decoder = {"is_decoder": True, "add_cross_attention": True} if auto_name.endswith("CausalLM") else {}
    padding = {"pad_token_id": 0} if cls.config_class.pad_token_id is None else {}
    fields = own_fields(cls.config_class, fitted(model_type, {**TINY, "embedding_size": 12, **decoder, **padding}))
    return cls(cls.config_class(**fields)).eval()


CASES = [
    (families.auto_name(head), family)
    for head in families.HEADS
    for family in families.families_with(head)
    if family in families.bodies()
]


@pytest.mark.parametrize(("auto_name", "model_type"), CASES)
def test_parameter_names_are_public(auto_name: str, model_type: str):
    got = {name: tuple(value.shape) for name, value in build(auto_name, model_type).state_dict().items()}
    body, heads, prefix, has_pooler = ARCHITECTURES.get(model_type, ROBERTA)
    if auto_name == "AutoModel":
        assert got == {**body, **(POOLER if has_pooler else {})}
        return
    task = auto_name.removeprefix("AutoModel")
    if (task, model_type) in {("ForQuestionAnswering", name) for name in ("llama", "qwen2", "qwen3")}:
        prefix = "transformer"  # as in the reference
    extra, head = {**HEADS, **heads}[task]
    assert got == {**{f"{prefix}.{name}": shape for name, shape in {**body, **extra}.items()}, **head}


@pytest.mark.parametrize(("auto_name", "model_type"), CASES)
def test_a_forward_changes_nothing(auto_name: str, model_type: str):
    model = build(auto_name, model_type)
    ids = IDS[None] if auto_name.endswith("MultipleChoice") else IDS
    config, weights = model.config, copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    given = ids.clone()
    inputs = with_global_tokens(model, {"input_ids": ids})
    first, second = model(**inputs), model(**inputs)
    assert model.config == config
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(ids, given)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(first[0], second[0])


def test_outputs_read_like_tuples_and_dicts():
    model = build("AutoModelForSequenceClassification", "bert")
    labels = torch.tensor([0, 1])
    out = model(IDS, labels=labels, output_attentions=True)
    assert list(out) == ["loss", "logits", "attentions"]
    assert out[0] is out.loss is out["loss"]
    assert out[1] is out.logits
    loss, logits = out[:2]
    assert len(out) == 3
    assert (loss, logits) == (out.loss, out.logits)
    assert dict(**out).keys() == {"loss", "logits", "attentions"}
    with pytest.raises(KeyError):
        out["hidden_states"]
    plain = model(IDS, labels=labels, return_dict=False)
    assert isinstance(plain, tuple)
    assert len(plain) == 2
    assert model(IDS)[0].shape == (2, 2)


def test_outputs_asked_for_in_the_configuration():
    config = minitrans.BertConfig(**OF_BERT, output_hidden_states=True, output_attentions=True)
    out = minitrans.BertModel(config).eval()(IDS)
    assert len(out.hidden_states) == 2
    assert out.attentions[0].shape == (2, 3, 4, 4)
    assert minitrans.BertModel(config).eval()(IDS, output_attentions=False).attentions is None


def test_labels_of_the_configuration():
    config = minitrans.BertConfig(id2label={0: "no", 1: "yes", 2: "maybe"}, num_labels=3)
    assert config.label2id == {"no": 0, "yes": 1, "maybe": 2}
    assert config.updated(num_labels=2).id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert config.updated(id2label={0: "a", 1: "b"}).num_labels == 2
    assert minitrans.BertConfig().id2label == {0: "LABEL_0", 1: "LABEL_1"}


def test_training_reaches_every_parameter():
    for auto_name, model_type in CASES:
        model = build(auto_name, model_type).train()
        ids = IDS[None] if auto_name.endswith("MultipleChoice") else IDS
        crosses = auto_name.endswith("CausalLM") and model.config.add_cross_attention
        memory = {"encoder_hidden_states": torch.randn(2, 5, 12)} if crosses else {}
        out = model(**with_global_tokens(model, {"input_ids": ids}), **memory)
        sum(value.square().sum() for name, value in out.items() if name != "past_key_values").backward()
        idle = {
            name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0
        }
        idle -= {name for name, value in model.named_parameters() if not value.requires_grad}  # RF1
        if model_type in ("big_bird", "fnet"):  # BB3, FN1: it is there, used or not
            idle = {name for name in idle if ".pooler." not in name}
        # one choice of one row: the score's bias alone would not do for the key biases, whose gradient is zero by construction
        assert all(name.endswith(("key.bias", "key_global.bias")) for name in idle), (auto_name, model_type, idle)


def test_moving_and_copying_keeps_the_tie():
    model = build("AutoModelForMaskedLM", "roberta")
    for other in (copy.deepcopy(model), model.double(), model.to("cpu").float()):
        assert other.lm_head.decoder.weight is other.roberta.embeddings.word_embeddings.weight
    assert model.num_parameters() == sum(p.numel() for p in set(model.parameters()))


@pytest.mark.parametrize("attention", ["full", {"name": "sliding_window", "window": 2}])
def test_attention_can_be_swapped_by_a_name(attention):
    model = build("AutoModel", "bert")
    full = model(IDS)[0]
    model.set_attention(attention)
    assert model.config.attention == attention
    assert torch.equal(model(IDS)[0], full) == (attention == "full")


def test_an_attention_of_ones_own():
    class Uniform(minitrans.Variant):
        """Everybody looks at everybody alike."""

        name = "uniform"

        def compute(self, query, key, value, rules):
            return minitrans.AttentionResult(value.mean(dim=2, keepdim=True).expand_as(query))

        def supports(self, rules, query):
            return "key_padding" if rules.mask.key_padding is not None else super().supports(rules, query)

    model = minitrans.BertModel(minitrans.BertConfig(**OF_BERT, attention=Uniform)).eval()
    model(IDS)[0].sum().backward()
    with pytest.raises(minitrans.NotSupportedError, match="'uniform' does not support key_padding"):
        model(IDS, attention_mask=torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]))


def test_every_class_name_is_exported():
    for name in class_names():
        assert getattr(minitrans, name) is class_by_name(name)
    for head in families.HEADS:
        assert hasattr(getattr(minitrans, families.auto_name(head)), "from_pretrained")
    assert set(FAMILIES) >= {"bert", "roberta", "xlm-roberta", "camembert", *ARCHITECTURES}
