"""The reference, built tiny and offline, and a second, independent derivation of how its parameter names map to ours."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import minitrans
from minitrans.checkpoints.verification import without_float32
from minitrans.layers.multi_head_attention import MultiHeadAttention
from tests.tiny import fitted

PREFIXES = {
    "gpt2": "GPT2",
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma2": "Gemma2",
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "distilbert": "DistilBert",
    "albert": "Albert",
    "electra": "Electra",
    "mpnet": "MPNet",
    "roberta-prelayernorm": "RobertaPreLayerNorm",
    "deberta-v2": "DebertaV2",
    "longformer": "Longformer",
    "fnet": "FNet",
    "modernbert": "ModernBert",
    "nomic_bert": "NomicBert",
    "roformer": "RoFormer",
    "nystromformer": "Nystromformer",
    "big_bird": "BigBird",
}
# What is in the published files, and not what the classes of the reference assume.
PUBLISHED = {
    "longformer": {"attention_window": 4, "pad_token_id": 1},
    "big_bird": {"block_size": 1, "num_random_blocks": 2, "sep_token_id": 7},  # what makes texts of 11 tokens long
    "deberta-v2": {
        "relative_attention": True, "pos_att_type": "p2c|c2p", "position_buckets": 4, "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "position_biased_input": False, "conv_kernel_size": 3,
    },
}  # fmt: skip
# Fields without which the two draw other numbers in train mode: dropout of the reference is on other shapes.
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SAME_SHAPES: dict[str, dict[str, float]] = {"longformer": NO_DROPOUT}
# Families whose attention lets padding take part, so that it cannot be left out.
NEEDS_PADDING = {"nystromformer", "big_bird", "fnet"}
# Families whose outputs at padding mean nothing: the reference lets padding attend to everything alike there.
UNDEFINED_AT_PADDING = {"deberta-v2"}
# The tests speak of configurations by BERT's names: what a family calls a field.
FIELDS = {
    "albert": {"classifier_dropout": "classifier_dropout_prob"},
    "modernbert": {
        "hidden_act": "hidden_activation", "hidden_dropout_prob": "embedding_dropout", "layer_norm_eps": "norm_eps",
        "attention_probs_dropout_prob": "attention_dropout",
    },
    "distilbert": {
        "hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim", "hidden_act": "activation", "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout", "classifier_dropout": "seq_classif_dropout",
    },
    **{
        name: {"attention_probs_dropout_prob": "attention_dropout", "layer_norm_eps": "rms_norm_eps"}
        for name in ("llama", "mistral", "qwen2", "qwen3")
    },
    "gemma2": {
        "attention_probs_dropout_prob": "attention_dropout", "layer_norm_eps": "rms_norm_eps", "hidden_act": "hidden_activation",
    },
    "gpt2": {
        "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "intermediate_size": "n_inner",
        "hidden_act": "activation_function", "hidden_dropout_prob": "resid_pdrop", "attention_probs_dropout_prob": "attn_pdrop",
        "max_position_embeddings": "n_positions", "layer_norm_eps": "layer_norm_epsilon",
    },
}  # fmt: skip
# ... and which of them a family may lack
OPTIONAL = {
    "type_vocab_size",
    "layer_norm_eps",
    "classifier_dropout",
    "embedding_size",
    "num_hidden_groups",
    "inner_group_num",
    "is_decoder",
    "hidden_dropout_prob",
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "query_pre_attn_scalar",
}
# What a decoder needs to tell where texts end, unless a test says otherwise
ROTARY: dict[str, Any] = {"pad_token_id": 1, "num_key_value_heads": 1}
DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt2": {"pad_token_id": 1},
    "llama": {**ROTARY, "head_dim": 6, "attention_bias": True, "mlp_bias": True},
    "mistral": {**ROTARY, "head_dim": 6, "sliding_window": 5},
    "qwen2": {**ROTARY, "head_dim": 6, "use_sliding_window": True, "max_window_layers": 1, "sliding_window": 5},
    "qwen3": {
        **ROTARY,
        "head_dim": 6,
        "attention_bias": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 70.0},
    },
    "gemma2": {
        **ROTARY,
        "head_dim": 6,
        "query_pre_attn_scalar": 5,
        "sliding_window": 5,
        "final_logit_softcapping": 2.0,
        "attn_logit_softcapping": 1.5,
    },
}

RENAMES = [
    (r"attention\.self\.", "attention."),
    (r"attention\.output\.dense\.", "attention.output."),
    (r"attention\.output\.LayerNorm\.", "attention_LayerNorm."),
    (r"intermediate\.dense\.", "feed_forward.up."),
    (r"(layer\.\d+)\.output\.dense\.", r"\1.feed_forward.down."),
    (r"(layer\.\d+)\.output\.LayerNorm\.", r"\1.feed_forward_LayerNorm."),
    (r"crossattention", "cross_attention"),
    (r"^cls\.predictions\.transform\.", "lm_head."),
    (r"^cls\.predictions\.(decoder\.)?", r"lm_head.decoder."),
    (r"^cls\.seq_relationship\.", "seq_relationship."),
    (r"^lm_head\.layer_norm\.", "lm_head.LayerNorm."),
    (r"^lm_head\.bias$", "lm_head.decoder.bias"),
    # Longformer
    (r"attention\.(query|key|value)_global", r"attention.own.0.\1_global"),
    # BigBird
    (r"^qa_classifier\.intermediate\.dense\.", "qa_classifier.feed_forward.up."),
    (r"^qa_classifier\.output\.dense\.", "qa_classifier.feed_forward.down."),
    (r"^qa_classifier\.output\.", "qa_classifier."),
    # Nyströmformer
    (r"attention\.conv\.", "attention.own.0.conv."),
    # DeBERTa
    (r"attention\.pos_(key|query)_proj", r"attention.position_\1"),
    (r"attention\.(query|key|value)_proj", r"attention.\1"),
    (r"encoder\.LayerNorm", "encoder.relative_embeddings.LayerNorm"),
    (r"encoder\.rel_embeddings", "encoder.relative_embeddings"),
    (r"encoder\.conv\.", "encoder.convolution."),
    (r"embed_proj", "projection"),
    (r"^lm_predictions\.lm_head\.bias", "lm_head.decoder.bias"),
    (r"^lm_predictions\.", ""),
    # RoBERTa-PreLayerNorm
    (r"(attention|crossattention|cross_attention)\.LayerNorm", r"\1_LayerNorm"),
    (r"intermediate\.LayerNorm", "feed_forward_LayerNorm"),
    (r"^((?:roberta_prelayernorm\.)?)LayerNorm", r"\1encoder.LayerNorm"),
    # ELECTRA
    (r"embeddings_project", "embeddings.projection"),
    (r"^generator_predictions", "lm_head"),
    (r"^generator_lm_head", "lm_head.decoder"),
    (r"^sequence_summary\.summary", "summary"),
    # FNet
    (r"fourier\.output\.LayerNorm", "attention_LayerNorm"),
    # ModernBERT, whose fused projections are cut below
    (r"embeddings\.tok_embeddings", "embeddings.word_embeddings"),
    (r"embeddings\.norm\.", "embeddings.LayerNorm."),
    (r"attn\.Wo\.", "attention.output."),
    (r"mlp\.Wo\.", "feed_forward.down."),
    (r"attn_norm", "attention_LayerNorm"),
    (r"mlp_norm", "feed_forward_LayerNorm"),
    (r"final_norm", "encoder.LayerNorm"),
    (r"^head\.norm", "lm_head.LayerNorm"),
    (r"^head\.", "lm_head."),
    (r"^decoder\.", "lm_head.decoder."),
    # NomicBERT
    (r"self_attn\.q_proj", "attention.query"),
    (r"self_attn\.k_proj", "attention.key"),
    (r"self_attn\.v_proj", "attention.value"),
    (r"self_attn\.o_proj", "attention.output"),
    (r"mlp\.(up|gate|down)_proj", r"feed_forward.\1"),
    (r"post_attention_layernorm", "attention_LayerNorm"),
    (r"post_mlp_layernorm", "feed_forward_LayerNorm"),
    (r"(^|\.)layers\.", r"\1encoder.layer."),
    (r"^lm_head\.layer_norm\.", "lm_head.LayerNorm."),
    # RoFormer
    (r"encoder\.embed_positions", "encoder.turns"),
    # MPNet
    (r"attention\.attn\.q\.", "attention.query."),
    (r"attention\.attn\.k\.", "attention.key."),
    (r"attention\.attn\.v\.", "attention.value."),
    (r"attention\.attn\.o\.", "attention.output."),
    # ALBERT
    (r"encoder\.embedding_hidden_mapping_in", "embeddings.projection"),
    (r"attention\.dense\.", "attention.output."),
    (r"\.ffn\.(weight|bias)$", r".feed_forward.up.\1"),
    (r"\.ffn_output\.", ".feed_forward.down."),
    (r"full_layer_layer_norm", "feed_forward_LayerNorm"),
    (r"^((?:albert\.|bert\.)?)pooler\.(weight|bias)$", r"\1pooler.dense.\2"),
    (r"^predictions\.bias$", "lm_head.decoder.bias"),
    (r"^predictions\.", "lm_head."),
    (r"^sop_classifier\.classifier", "sop_classifier"),
    # DistilBERT
    (r"transformer\.layer\.", "encoder.layer."),
    (r"attention\.q_lin\.", "attention.query."),
    (r"attention\.k_lin\.", "attention.key."),
    (r"attention\.v_lin\.", "attention.value."),
    (r"attention\.out_lin\.", "attention.output."),
    (r"sa_layer_norm", "attention_LayerNorm"),
    (r"ffn\.lin1", "feed_forward.up"),
    (r"ffn\.lin2", "feed_forward.down"),
    (r"output_layer_norm", "feed_forward_LayerNorm"),
    (r"^vocab_transform", "lm_head.dense"),
    (r"^vocab_layer_norm", "lm_head.LayerNorm"),
    (r"^vocab_projector", "lm_head.decoder"),
    # GPT-2
    (r"\bwte\b", "embeddings.word_embeddings"),
    (r"\bwpe\b", "embeddings.position_embeddings"),
    (r"(^|transformer\.)h\.(\d+)\.", r"\1encoder.layer.\2."),
    (r"\bln_f\b", "encoder.LayerNorm"),
    (r"\bln_1\b", "attention_LayerNorm"),
    (r"\bln_cross_attn\b", "cross_attention_LayerNorm"),
    (r"\bln_2\b", "feed_forward_LayerNorm"),
    (r"(\d)\.attn\.", r"\1.attention."),
    (r"attention\.c_proj", "attention.output"),
    (r"attention\.q_attn", "attention.query"),
    (r"mlp\.c_fc", "feed_forward.up"),
    (r"mlp\.c_proj", "feed_forward.down"),
    (r"^score\.", "label_scores."),
    # LLaMA and those that follow it
    (r"\bembed_tokens\b", "embeddings.word_embeddings"),
    (r"(^|model\.|transformer\.)layers\.(\d+)\.", r"\1encoder.layer.\2."),
    (r"(^|model\.|transformer\.)norm\.weight", r"\1encoder.LayerNorm.weight"),
    (r"self_attn\.q_norm\.", "attention.own.0.query_"),
    (r"self_attn\.k_norm\.", "attention.own.0.key_"),
    (r"self_attn\.q_proj", "attention.query"),
    (r"self_attn\.k_proj", "attention.key"),
    (r"self_attn\.v_proj", "attention.value"),
    (r"self_attn\.o_proj", "attention.output"),
    (r"mlp\.gate_proj", "feed_forward.gate"),
    (r"mlp\.up_proj", "feed_forward.up"),
    (r"mlp\.down_proj", "feed_forward.down"),
    (r"input_layernorm", "attention_LayerNorm"),
]


def with_global_tokens(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Which tokens are global, where a head would have to be told by three separators (L4)."""
    ids = inputs["input_ids"]
    return {**inputs, "global_attention_mask": ids % 2 == 1} if hasattr(model.config, "attention_window") else inputs


def own_fields(model_type: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Fields by BERT's names, by the family's."""
    config_class = getattr(minitrans, f"{PREFIXES[model_type]}Config")
    known = {item.name for item in dataclasses.fields(config_class)}
    fields = {**DEFAULTS.get(model_type, {}), **fitted(model_type, fields)}
    names = {name: FIELDS.get(model_type, {}).get(name, name) for name in fields}
    if "resid_pdrop" in known:
        fields, names = (
            {"embd_pdrop": fields.get("hidden_dropout_prob", 0.1), **fields},
            {"embd_pdrop": "embd_pdrop", **names},
        )
    return {names[name]: value for name, value in fields.items() if names[name] in known or name not in OPTIONAL}


def our_name(name: str, blocks_of_a_group: int = 1) -> str:
    name = re.sub(
        r"albert_layer_groups\.(\d+)\.albert_layers\.(\d+)",
        lambda found: f"layer.{int(found[1]) * blocks_of_a_group + int(found[2])}",
        name,
    )
    for pattern, ours in RENAMES:
        name = re.sub(pattern, ours, name)
    return name


FUSED = {
    r"\.attn\.Wqkv\.": ("attention.query", "attention.key", "attention.value"),
    r"\.mlp\.Wi\.": ("feed_forward.gate", "feed_forward.up"),
}
NORMS_OF_LLAMA = {"post_attention_layernorm": "feed_forward_LayerNorm"}
NORMS_OF_GEMMA = {
    "post_attention_layernorm": "attention.output.LayerNorm",
    "pre_feedforward_layernorm": "feed_forward_LayerNorm",
    "post_feedforward_layernorm": "feed_forward.down.LayerNorm",
}


def translated(name: str, tensor: Tensor, blocks_of_a_group: int = 1, model_type: str = "") -> list[tuple[str, Tensor]]:
    """Ours for one of theirs: another name, and of GPT-2's matrices the parts, each turned (G1)."""
    for pattern, parts in FUSED.items():
        if re.search(pattern, name):
            names = [our_name(re.sub(pattern, f".{part}.", name)) for part in parts]
            return list(zip(names, tensor.chunk(len(parts)), strict=True))
    norms = {"gemma2": NORMS_OF_GEMMA, "nomic_bert": {}}.get(model_type, NORMS_OF_LLAMA)
    norm = next((part for part in name.split(".") if part in norms), None)
    ours = our_name(name if norm is None else name.replace(norm, "the_norm"), blocks_of_a_group)
    ours = ours.replace("the_norm", norms.get(norm or "", ""))
    if model_type == "gemma2":
        ours = re.sub(r"(attention\.output|feed_forward\.down)\.(weight|bias)", r"\1.projection.\2", ours)
    if re.search(r"\.(c_attn|c_proj|c_fc|q_attn)\.weight$", name):
        tensor = tensor.T
    if ".c_attn." not in name:
        return [(ours, tensor)]
    parts = ("key", "value") if "cross" in name else ("query", "key", "value")
    return [
        (ours.replace("c_attn", part), of_part) for part, of_part in zip(parts, tensor.chunk(len(parts)), strict=True)
    ]


@dataclass
class Pair:
    """A reference model and ours with the same weights, both in float64 and train mode, dropout as configured."""

    reference: nn.Module
    ours: nn.Module
    config: Any

    def gradients(self) -> list[tuple[str, Tensor, Tensor]]:
        """(our name, our gradient, the reference's) of every parameter, missing ones as zeros."""
        mine = dict(self.ours.named_parameters(remove_duplicate=False))
        inner = getattr(self.config, "inner_group_num", 1)
        pairs = []
        for name, parameter in self.reference.named_parameters():
            if (
                name in ("cls.predictions.bias", "predictions.bias", "lm_head.bias")
                and not self.config.tie_word_embeddings
            ):
                continue  # B3: untied, the reference's forward never reads it
            theirs = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for ours, expected in translated(name, theirs, inner, self.config.model_type):
                found = mine[ours].grad
                pairs.append((ours, torch.zeros_like(expected) if found is None else found, expected))
        return pairs


def build_pair(model_type: str, head: str, **fields: Any) -> Pair:
    prefix = PREFIXES[model_type]
    name = {"BertForCausalLM": "BertLMHeadModel", "GPT2ForCausalLM": "GPT2LMHeadModel"}.get(
        prefix + head, prefix + head
    )
    fields = own_fields(model_type, {**PUBLISHED.get(model_type, {}), **fields, **SAME_SHAPES.get(model_type, {})})
    if model_type == "big_bird" and fields.get("is_decoder"):  # BB1
        fields["attention_type"] = "original_full"
    torch.manual_seed(7)
    reference_config = getattr(transformers, f"{prefix}Config")(**fields)
    reference_config._attn_implementation = "eager"
    cls = getattr(transformers, name)  # imported before: what is imported in there is not kept from rounding
    with without_float32():
        reference = cls(reference_config).double().train()
        reference.forward = without_float32()(reference.forward)
    with torch.no_grad():  # fresh biases are 0 and norms 1: a swapped one would go unnoticed
        for parameter in reference.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    config = getattr(minitrans, f"{prefix}Config")(**fields)
    ours = getattr(minitrans, name)(config).double().train()
    inner = getattr(config, "inner_group_num", 1)
    theirs = reference.state_dict()
    state = dict(pair for key, value in theirs.items() for pair in translated(key, value, inner, model_type))
    ours.load_state_dict(state, strict=True)
    modules = [module for module in ours.modules() if isinstance(module, MultiHeadAttention)]
    computes = any(variant.is_mechanism for module in modules for variant in module.own)
    ours.set_attention("full", "auto" if computes else "eager")
    return Pair(reference, ours, config)


@pytest.fixture(scope="session")
def pair() -> Callable[..., Pair]:
    return build_pair


def relative_error(ours: Tensor, expected: Tensor, floor: float = 0.0) -> float:
    """max |ours - expected| over max |expected|, or over `floor` where that is larger."""
    ours, expected = ours.detach(), expected.detach()
    scale = max(float(expected.abs().max()), floor, torch.finfo(torch.float64).tiny)
    return float((ours - expected).abs().max()) / scale


@pytest.fixture(scope="session")
def error() -> Callable[..., float]:
    return relative_error
