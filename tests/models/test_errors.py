"""Wrong calls, and the sentence each must get: what was given, what was expected, never a kernel's complaint or silence."""

from __future__ import annotations

import pytest
import torch

import minitrans
from minitrans import (
    AttentionMask,
    AutoConfig,
    AutoModelForNextSentencePrediction,
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertLMHeadModel,
    BertModel,
    DenseBias,
    NotSupportedError,
    PackedLayout,
    RobertaConfig,
    RobertaModel,
)
from minitrans.layers.cache import Cache

TINY = {
    "vocab_size": 23, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 16,
    "max_position_embeddings": 10, "type_vocab_size": 2,
}  # fmt: skip
IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])
ONES = torch.ones(2, 3, dtype=torch.long)


def body(**fields):
    return BertModel(BertConfig(**{**TINY, **fields})).eval()


def roberta():
    return RobertaModel(RobertaConfig(**TINY)).eval()


def head(cls, **fields):
    return cls(BertConfig(**{**TINY, **fields})).eval()


CALLS = {
    # what a tokenizer or a user hands to a model
    "no input": (lambda: body()(), ValueError, "exactly one of input_ids and inputs_embeds, got neither"),
    "two inputs": (lambda: body()(IDS, inputs_embeds=torch.zeros(2, 3, 12)), ValueError, "got both"),
    "a list of ids": (lambda: body()([[5, 6, 7]]), TypeError, "input_ids must be a tensor of integers, got list.*return_tensors"),
    "float ids": (lambda: body()(IDS.float()), TypeError, "input_ids must be a tensor of integers, got a tensor of torch.float32"),
    "one sequence": (lambda: body()(IDS[0]), ValueError, r"input_ids must be \(B, T\), got \(3,\); for one sequence write"),
    "no tokens": (lambda: body()(IDS[:, :0]), ValueError, "the sequences are empty"),
    "id too large": (lambda: body()(IDS + 15), ValueError, r"input_ids must be in \[0, vocab_size=23\), got 25"),
    "negative id": (lambda: body()(IDS - 6), ValueError, r"input_ids must be in \[0, vocab_size=23\), got -1"),
    "too long": (
        lambda: body()(torch.ones(1, 11, dtype=torch.long)), ValueError, "have 11 tokens, the model has positions for 10.*truncation",
    ),
    "too long for RoBERTa": (
        lambda: roberta()(torch.full((1, 9), 5)), ValueError, "have 9 tokens, the model has positions for 8",
    ),
    "token type out of range": (
        lambda: body()(IDS, token_type_ids=ONES * 2), ValueError, r"token_type_ids must be in \[0, type_vocab_size=2\), got 2",
    ),
    "token types of another shape": (
        lambda: body()(IDS, token_type_ids=ONES[:, :2]), ValueError, r"token_type_ids must be \(B, T\) or \(1, T\) = \(2, 3\), got \(2, 2\)",
    ),
    "position out of range": (
        lambda: body()(IDS, position_ids=ONES * 10), ValueError, r"position_ids must be in \[0, max_position_embeddings=10\)",
    ),
    "positions of another shape": (
        lambda: body()(IDS, position_ids=ONES[:, :2]), ValueError, r"position_ids must be \(B, T\) or \(1, T\) = \(2, 3\)",
    ),
    "M3 mask too short, all ones": (
        lambda: body()(IDS, attention_mask=ONES[:, :2]), ValueError, r"attention_mask must be \(B, S\) = \(2, 3\), or 4-D",
    ),
    "M3 mask too long, all ones": (
        lambda: body()(IDS, attention_mask=torch.ones(2, 4)), ValueError, r"attention_mask must be \(B, S\) = \(2, 3\), or 4-D",
    ),
    "mask of another batch": (
        lambda: body()(IDS, attention_mask=ONES[:1]), ValueError, r"attention_mask must be \(B, S\) = \(2, 3\)",
    ),
    "mask of three dimensions": (
        lambda: body()(IDS, attention_mask=torch.ones(2, 3, 3)), ValueError, r"or 4-D, got \(2, 3, 3\)",
    ),
    "additive mask": (
        lambda: body()(IDS, attention_mask=(1.0 - ONES) - 10000.0), ValueError, "negative or NaN values; scores to be added are 4-D",
    ),
    "square mask of integers": (
        lambda: body()(IDS, attention_mask=torch.ones(2, 1, 3, 3, dtype=torch.long)), TypeError, "4-D attention_mask must be bool",
    ),
    "vectors of another width": (
        lambda: body()(inputs_embeds=torch.zeros(2, 3, 11)), ValueError, r"inputs_embeds must be \(B, T, D=12\), got \(2, 3, 11\)",
    ),
    "an argument that does not exist": (lambda: body()(IDS, atention_mask=ONES), TypeError, "atention_mask"),
    "an argument that a head does not know": (lambda: head(BertForMaskedLM)(IDS, lables=IDS), TypeError, "lables"),
    "a cache for an encoder": (
        lambda: body()(IDS, past_key_values=Cache(())), ValueError, "past_key_values needs a decoder",
    ),
    "a memory without cross-attention": (
        lambda: body()(IDS, encoder_hidden_states=torch.zeros(2, 4, 12)), ValueError, "needs cross-attention",
    ),
    "head mask of another shape": (lambda: body()(IDS, head_mask=torch.ones(4)), ValueError, r"head_mask must be \(H\) or \(L, H\)"),
    # labels
    "label out of range": (
        lambda: head(BertForSequenceClassification)(IDS, labels=torch.tensor([0, 2])), ValueError,
        r"labels must be in \[0, 2\) or -100 \(ignored\), got 2.*num_labels=",
    ),
    "negative label": (
        lambda: head(BertForTokenClassification)(IDS, labels=ONES - 2), ValueError, r"labels must be in \[0, 2\) or -100.*got -1",
    ),
    "labels of another shape": (
        lambda: head(BertForMaskedLM)(IDS, labels=ONES[:, :2]), ValueError, r"labels must have shape \(2, 3\), got \(2, 2\)",
    ),
    "float labels for one class": (
        lambda: head(BertForSequenceClassification, problem_type="single_label_classification")(IDS, labels=torch.rand(2)),
        TypeError, "labels must be integers, got torch.float32",
    ),
    "one column of labels for many": (
        lambda: head(BertForSequenceClassification)(IDS, labels=torch.rand(2)), ValueError, r"must have the shape of the logits \(2, 2\)",
    ),
    "question answering with three labels": (
        lambda: head(BertForQuestionAnswering, num_labels=3), ValueError, "num_labels must be 2, got 3",
    ),
    "positions that are no integers": (
        lambda: head(BertForQuestionAnswering)(IDS, start_positions=torch.rand(2), end_positions=torch.rand(2)),
        ValueError, "start and end positions must be 2 integers",
    ),
    "multiple choice without choices": (
        lambda: head(BertForMultipleChoice)(IDS), ValueError, r"needs \(B, choices, T\) inputs, got \(2, 3\)",
    ),
    "causal model that is no decoder": (lambda: head(BertLMHeadModel), ValueError, "set is_decoder=True"),
    # configurations
    "misspelt field": (lambda: BertConfig(hiden_size=3), TypeError, "hiden_size"),
    "heads that do not divide": (lambda: body(num_attention_heads=5), ValueError, "hidden_size must be a multiple of num_attention_heads=5, got 12"),
    "unknown activation": (lambda: body(hidden_act="gelo"), ValueError, "unknown activation 'gelo'; known: gelu"),
    "unknown position type": (lambda: body(position_embedding_type="rotary"), ValueError, "position_embedding_type must be one of"),
    "dropout of one": (lambda: body(hidden_dropout_prob=1.0), ValueError, r"hidden_dropout_prob must be in \[0, 1\), got 1.0"),
    "eps that is not a number": (lambda: body(layer_norm_eps=float("nan")), ValueError, r"layer_norm_eps must be in \(0, 1\], got nan"),
    "a size that is a string": (lambda: body(vocab_size="23"), TypeError, "vocab_size must be int, got '23'"),
    "a size that is true": (lambda: body(num_hidden_layers=True), TypeError, "num_hidden_layers must be int, got True"),
    "cross-attention in an encoder": (lambda: body(add_cross_attention=True), ValueError, "add_cross_attention must be False unless"),
    "names for too few labels": (lambda: body(num_labels=3, id2label={0: "a"}), ValueError, "id2label must be 3 names, as many as num_labels"),
    "pad id outside the vocabulary": (lambda: body(pad_token_id=23), ValueError, r"pad_token_id must be in \[0, vocab_size=23\)"),
    "another family's configuration": (lambda: BertModel(RobertaConfig(**TINY)), TypeError, "BertModel needs a BertConfig, got RobertaConfig"),
    "assignment to a configuration": (lambda: setattr(BertConfig(), "hidden_size", 3), ValueError, "hidden_size must be a multiple of"),
    "assignment under a model": (lambda: setattr(body().config, "hidden_size", 48), ValueError, "hidden_size: the model was built with"),
    # attention
    "unknown attention": (lambda: body(attention="ful"), ValueError, "unknown attention variant 'ful'; the nearest is 'full'"),
    "unknown option": (lambda: body(attention={"name": "sliding_window", "width": 4}), TypeError, "sliding_window.*width"),
    "odd window": (lambda: body(attention={"name": "sliding_window", "window": 3}), ValueError, "window must be an even number"),
    "unknown backend": (lambda: body().set_attention("full", "flash"), ValueError, "unknown attention backend 'flash'; known: auto, eager"),
    "mask of integers": (lambda: AttentionMask(key_padding=ONES), TypeError, "key_padding must be a bool tensor where True = may attend"),
    "bool bias": (lambda: DenseBias(torch.ones(1, 1, 2, 2).bool()), TypeError, "a bool tensor is a mask"),
    "long cu_seqlens": (lambda: PackedLayout(torch.tensor([0, 3]), 3), ValueError, "cu_seqlens must be a .* int32 tensor"),
    # surgery
    "pruning all heads": (lambda: body().prune_heads({0: [0, 1, 2]}), ValueError, "pruned_heads must be some, not all"),
    "pruning a head that is not there": (lambda: body().prune_heads({0: [3]}), ValueError, "pruned_heads must be some, not all"),
    "empty vocabulary": (lambda: body().resize_token_embeddings(0), ValueError, "new vocabulary size must be at least 1, got 0"),
    "a head that a family lacks": (
        lambda: AutoModelForNextSentencePrediction.from_config(RobertaConfig(**TINY)), ValueError,
        "'roberta' has no such head; families that do: bert, fnet$",
    ),
    # names and paths
    "no such folder": (lambda: BertModel.from_pretrained("./no/such/folder"), ValueError, "no such folder"),
    "a name that is not in the cache": (
        lambda: AutoConfig.from_pretrained("nobody/nothing", local_files_only=True), ValueError, "not in the local Hugging Face cache",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_wrong_calls(name: str):
    call, kind, message = CALLS[name]
    with pytest.raises(kind, match=f"(?s){message}"):
        call()


def test_not_supported_names_the_option_and_who_has_it():
    query = torch.randn(1, 2, 3, 4, requires_grad=True)
    with pytest.raises(NotSupportedError, match="gradient.*eager"):
        minitrans.attend(query, query, query, backend="flex")


def test_refused_calls_leave_the_model_as_it_was():
    model = body()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = model.config
    with pytest.raises(ValueError, match="pruned_heads"):
        model.prune_heads({0: [0], 1: [0, 1, 2]})
    assert model.config is config
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
