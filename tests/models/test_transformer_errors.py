"""Every impossible configuration and every wrong call of the 2017 Transformer gives its clear error."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from minitrans import Transformer, TransformerConfig

PAD, BOS, EOS = 0, 1, 2
SOURCE = torch.tensor([[5, 9, 14, 3, 22, 7, 2], [11, 4, 8, 2, PAD, PAD, PAD]])
TARGET = torch.tensor([[BOS, 6, 13, 20, 17], [BOS, 10, 21, PAD, PAD]])
LABELS = torch.tensor([[6, 13, 20, 17, EOS], [10, 21, EOS, PAD, PAD]])


def small() -> Transformer:
    return Transformer(
        TransformerConfig(
            vocab_size=23,
            width=12,
            num_encoder_layers=1,
            num_decoder_layers=1,
            num_heads=3,
            hidden_width=19,
            max_length=11,
        )
    )


CONFIG_ERRORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"widht": 12}, TypeError, "widht"),
    ({"width": 12.0}, TypeError, "width must be int, got 12.0"),
    ({"num_heads": True}, TypeError, "num_heads must be int, got True"),
    ({"dropout": "0.1"}, TypeError, "dropout must be float"),
    ({"vocab_size": 0}, ValueError, "vocab_size must be at least 1, got 0"),
    ({"num_encoder_layers": 0}, ValueError, "num_encoder_layers must be at least 1"),
    ({"max_length": -1}, ValueError, "max_length must be at least 1"),
    ({"dropout": 1.0}, ValueError, r"dropout must be in \[0, 1\), got 1.0"),
    ({"label_smoothing": float("nan")}, ValueError, "label_smoothing must be in"),
    ({"num_heads": 5}, ValueError, "width must be a multiple of num_heads=5, got 512"),
    ({"eos_token_id": 37000}, ValueError, r"eos_token_id must be in \[0, vocab_size=37000\), got 37000"),
    ({"pad_token_id": -1}, ValueError, "pad_token_id must be in"),
    ({"pad_token_id": 2}, ValueError, "pad_token_id=2 must differ"),
]


@pytest.mark.parametrize(("fields", "kind", "message"), CONFIG_ERRORS, ids=[case[2][:30] for case in CONFIG_ERRORS])
def test_impossible_configurations(fields: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        TransformerConfig(**fields)


def test_configuration_is_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TransformerConfig().width = 3
    with pytest.raises(TypeError):
        TransformerConfig(37000)


Call = Callable[[Transformer], object]
CALL_ERRORS: list[tuple[str, Call, type[Exception], str]] = [
    ("no target", lambda m: m(SOURCE), ValueError, "give target_ids, labels or both"),
    ("a list", lambda m: m([[3, 4]], TARGET), TypeError, "source_ids must be a tensor of integers, got list"),
    ("floats", lambda m: m(SOURCE.double(), TARGET), TypeError, "source_ids must be .* got a tensor of torch.float64"),
    ("id too big", lambda m: m(SOURCE + 20, TARGET), ValueError, r"source_ids must be in \[0, vocab_size=23\), got 42"),
    ("id negative", lambda m: m(SOURCE, TARGET - 9), ValueError, "target_ids must be in .* got -9"),
    ("-100", lambda m: m(SOURCE, labels=LABELS.masked_fill(LABELS == PAD, -100)), ValueError, "labels must be .* -100"),
    (
        "one sequence",
        lambda m: m(SOURCE[0], TARGET),
        ValueError,
        r"source_ids must be \(B, T\).*write source_ids\[None\]",
    ),
    ("empty source", lambda m: m(SOURCE[:, :0], TARGET), ValueError, r"at least one token, got \(2, 0\)"),
    ("empty target", lambda m: m(SOURCE, TARGET[:, :0]), ValueError, r"target_ids .* at least one token"),
    ("empty batch", lambda m: m.greedy_decode(SOURCE[:0], 3), ValueError, r"source_ids .* got \(0, 7\)"),
    ("long source", lambda m: m(SOURCE.repeat(1, 2), TARGET), ValueError, "have 14 tokens, .* positions for 11"),
    ("long target", lambda m: m(SOURCE, TARGET.repeat(1, 3)), ValueError, "have 15 tokens, .* positions for 11"),
    ("no pairs", lambda m: m(SOURCE, TARGET[:1]), ValueError, "must be pairs, got 2 and 1 sequences"),
    ("padded left", lambda m: m(SOURCE, TARGET.flip(1)), ValueError, "padded on the right"),
    (
        "labels of another length",
        lambda m: m(SOURCE, TARGET, labels=LABELS[:, :4]),
        ValueError,
        "labels must have shape",
    ),
    ("nothing to write", lambda m: m.greedy_decode(SOURCE, 0), ValueError, r"in \[1, max_length=11\], got 0"),
    ("too much to write", lambda m: m.greedy_decode(SOURCE, 12), ValueError, r"in \[1, max_length=11\], got 12"),
]


@pytest.mark.parametrize(("call", "kind", "message"), [c[1:] for c in CALL_ERRORS], ids=[c[0] for c in CALL_ERRORS])
def test_wrong_calls(call: Call, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call(small())
