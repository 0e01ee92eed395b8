"""A tiny model of every kind of head, with examples of unequal lengths and unequal numbers of labels."""

from __future__ import annotations

from typing import Any

import torch

import minitrans

LENGTHS = (3, 8, 5, 9, 4, 6)
WORDS = 29
BERT = {
    "vocab_size": WORDS, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 15,
    "max_position_embeddings": 16, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
GPT2 = {
    "vocab_size": WORDS, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16, "resid_pdrop": 0.0, "attn_pdrop": 0.0,
    "embd_pdrop": 0.0, "pad_token_id": 0, "summary_first_dropout": 0.0,
}  # fmt: skip
BART = {
    "vocab_size": WORDS, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 15, "decoder_ffn_dim": 15, "max_position_embeddings": 16, "dropout": 0.0,
    "pad_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
T5 = {"vocab_size": WORDS, "d_model": 8, "d_kv": 4, "d_ff": 15, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}


def ids(length: int) -> list[int]:
    """A text."""
    return [(7 * place + length) % (WORDS - 4) + 4 for place in range(length - 1)] + [2]


def tags(length: int, every: int = 2) -> list[int]:
    """Labels of some of its tokens: of none, where it is short."""
    return [place % 2 if place % every == 1 and length > 3 else -100 for place in range(length)]


def two(length: int) -> list[list[int]]:
    """A text and a shorter one."""
    return [ids(length), ids(3)]


# head: (class, configuration, its fields, what an example of so many tokens holds)
HEADS: dict[str, tuple[str, str, dict[str, Any], Any]] = {
    "masked": ("BertForMaskedLM", "BertConfig", BERT, lambda n: {"labels": tags(n)}),
    "causal": ("GPT2LMHeadModel", "GPT2Config", GPT2, lambda n: {}),
    "class": ("BertForSequenceClassification", "BertConfig", {**BERT, "num_labels": 3}, lambda n: {"labels": n % 3}),
    "classes": ("BertForSequenceClassification", "BertConfig", {**BERT, "num_labels": 3},
                lambda n: {"labels": [1.0, 0.0, float(n % 2)]}),
    "number": ("BertForSequenceClassification", "BertConfig", {**BERT, "num_labels": 1}, lambda n: {"labels": n / 7}),
    "distribution": ("DebertaV2ForSequenceClassification", "DebertaV2Config", {**BERT, "num_labels": 2},
                     lambda n: {"labels": [0.25, 0.75]}),
    "tags": ("BertForTokenClassification", "BertConfig", BERT, lambda n: {"labels": tags(n, 3)}),
    "answer": ("BertForQuestionAnswering", "BertConfig", BERT,
               lambda n: {"start_positions": 1, "end_positions": n - 1 if n % 2 else 99}),
    "choice": ("BertForMultipleChoice", "BertConfig", BERT, lambda n: {"input_ids": two(n), "labels": n % 2}),
    "two losses": ("BertForPreTraining", "BertConfig", BERT, lambda n: {"labels": tags(n), "next_sentence_label": n % 2}),
    "order": ("AlbertForPreTraining", "AlbertConfig", {**BERT, "embedding_size": 6, "classifier_dropout_prob": 0.0},
              lambda n: {"labels": tags(n), "sentence_order_label": n % 2}),
    "next sentence": ("BertForNextSentencePrediction", "BertConfig", BERT, lambda n: {"labels": n % 2}),
    "replaced": ("ElectraForPreTraining", "ElectraConfig", {**BERT, "embedding_size": 6}, lambda n: {"labels": [0, 1] * (n // 2) + [0] * (n % 2)}),
    "double": ("GPT2DoubleHeadsModel", "GPT2Config", GPT2,
               lambda n: {"input_ids": two(n), "labels": [ids(n), tags(3, 1)], "mc_token_ids": [n - 1, 2], "mc_labels": n % 2}),
    "last token": ("GPT2ForSequenceClassification", "GPT2Config", {**GPT2, "num_labels": 3}, lambda n: {"labels": n % 3}),
    "target": ("BartForConditionalGeneration", "BartConfig", BART, lambda n: {"labels": ids(12 - n)}),
    "class of a pair": ("BartForSequenceClassification", "BartConfig", BART, lambda n: {"labels": n % 2}),
    "answer of a pair": ("BartForQuestionAnswering", "BartConfig", BART, lambda n: {"start_positions": n % 3, "end_positions": 2}),
    "tags of a half": ("T5ForTokenClassification", "T5Config", T5, lambda n: {"labels": tags(n, 3)}),
}  # fmt: skip


def model_with(head: str) -> Any:
    """In float64, without dropout."""
    name, config, fields, _ = HEADS[head]
    torch.manual_seed(0)
    return getattr(minitrans, name)(getattr(minitrans, config)(**fields)).double()


def examples_of(head: str) -> list[dict[str, Any]]:
    """One a length."""
    return [{"input_ids": ids(length), **HEADS[head][3](length)} for length in LENGTHS]
