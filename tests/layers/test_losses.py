"""The losses against their formulas, the rules B4 and B5, and the error of every wrong label."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from minitrans.attention.layout import PackedLayout
from minitrans.layers.losses import (
    IGNORED,
    check_labels,
    classification_loss,
    next_token_labels,
    smoothed_loss,
    span_loss,
    token_loss,
)

B, T, C = 2, 3, 5


def logits(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def mean_surprise(scores: Tensor, labels: Sequence[tuple[tuple[int, ...], int]]) -> Tensor:
    """-log p of each (place, label), averaged."""
    logarithms = scores - scores.exp().sum(-1, keepdim=True).log()
    return -sum((logarithms[(*place, label)] for place, label in labels), torch.zeros(())) / len(labels)


def close(one: Tensor, other: Tensor) -> None:
    assert one.shape == ()
    assert one.item() == pytest.approx(other.item(), rel=1e-13)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_token_loss(dtype: torch.dtype) -> None:
    scores = logits(B, T, C)
    labels = torch.tensor([[4, IGNORED, 0], [IGNORED, 2, 2]], dtype=dtype)
    expected = mean_surprise(scores, [((0, 0), 4), ((0, 2), 0), ((1, 1), 2), ((1, 2), 2)])
    close(token_loss(scores, labels), expected)
    (gradient,) = torch.autograd.grad(token_loss(scores, labels), scores)
    assert gradient[0, 1].eq(0).all()
    assert gradient[1, 0].eq(0).all()


def test_nothing_to_learn_from_is_nan() -> None:
    """B4: the mean over no labels."""
    assert token_loss(logits(B, T, C), torch.full((B, T), IGNORED)).isnan()
    assert smoothed_loss(logits(B, T, C), torch.full((B, T), IGNORED), 0.1).isnan()


def test_next_token_labels_look_one_ahead() -> None:
    scores = logits(B, T, C)
    labels = torch.tensor([[4, 1, 0], [3, IGNORED, 2]])  # the first label is nobody's next token
    expected = mean_surprise(scores, [((0, 0), 1), ((0, 1), 0), ((1, 1), 2)])
    close(token_loss(scores, next_token_labels(labels)), expected)


def test_next_token_labels_end_with_the_sequence() -> None:
    layout = PackedLayout.from_lengths([0, 3, 1, 0, 2, 0])
    following = next_token_labels(torch.arange(6), layout)
    assert following.tolist() == [1, 2, IGNORED, IGNORED, 5, IGNORED]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("ignored", [IGNORED, 0])
def test_smoothed_loss(smoothing: float, ignored: int) -> None:
    scores = logits(B, T, C)
    labels = torch.tensor([[4, ignored, 1], [ignored, 2, 2]])
    places = [((0, 0), 4), ((0, 2), 1), ((1, 1), 2), ((1, 2), 2)]
    everything = [(place, label) for place, _ in places for label in range(C)]
    expected = (1 - smoothing) * mean_surprise(scores, places) + smoothing * mean_surprise(scores, everything)
    close(smoothed_loss(scores, labels, smoothing, ignored), expected)
    close(smoothed_loss(scores, labels.int(), smoothing, ignored), expected)


def test_classification_by_kind_of_label() -> None:
    """B5: without a problem type, labels and columns tell."""
    scores, one = logits(B, C), logits(B, 1)
    classes, floats = torch.tensor([3, 0]), torch.rand(B, C, dtype=torch.float64)
    single = mean_surprise(scores, [((0,), 3), ((1,), 0)])
    close(classification_loss(scores, classes, None), single)
    close(classification_loss(scores, classes[:, None], None), single)
    close(classification_loss(scores, classes, "single_label_classification"), single)

    p = 1 / (1 + (-scores).exp())
    multi = -(floats * p.log() + (1 - floats) * (1 - p).log()).mean()
    close(classification_loss(scores, floats, None), multi)
    close(classification_loss(scores, floats, "multi_label_classification"), multi)
    close(
        classification_loss(scores, floats.round().int(), "multi_label_classification"),
        classification_loss(scores, floats.round(), None),
    )

    values = torch.tensor([0.5, -2.0])
    squares = ((one[0, 0] - 0.5) ** 2 + (one[1, 0] + 2.0) ** 2) / 2
    for given in (values, values[:, None], values.double()):
        close(classification_loss(one, given, None), squares)
        close(classification_loss(one, given, "regression"), squares)
    close(classification_loss(one, torch.tensor([3, -1]), None), ((one[:, 0] - torch.tensor([3, -1])) ** 2).mean())
    close(classification_loss(scores, floats, "regression"), ((scores - floats) ** 2).mean())


def test_span_loss_clamps_and_leaves_out() -> None:
    """B5: positions are clamped to [0, T], and T counts as no answer."""
    start, end = logits(4, T), logits(4, T)
    starts, ends = torch.tensor([0, 2, 3, 99]), torch.tensor([1, -7, 2, 3])
    first = mean_surprise(start, [((0,), 0), ((1,), 2)])
    last = mean_surprise(end, [((0,), 1), ((1,), 0), ((2,), 2)])
    for one, other in ((starts, ends), (starts[:, None], ends[:, None]), (starts.int(), ends.int())):
        close(span_loss(start, end, one, other), (first + last) / 2)
    assert span_loss(start, end, torch.full((4,), T), ends).isnan()


def test_losses_equal_torchs_gradients() -> None:
    scores, labels = logits(B, T, C), torch.tensor([[4, IGNORED, 0], [IGNORED, 2, 2]])
    ours = torch.autograd.grad(token_loss(scores, labels), scores)[0]
    real = labels != IGNORED
    wanted = torch.zeros_like(ours)
    wanted[real] = (F.softmax(scores[real], -1) - F.one_hot(labels[real], C)) / 4
    assert (ours - wanted).abs().max() <= 1e-15


INTEGERS, FLOATS = torch.zeros(B, T, dtype=torch.long), torch.zeros(B, T)
Z, Z1 = torch.zeros(B, T, C), torch.zeros(B, 1)
ERRORS: list[tuple[str, Callable[..., Any], tuple[Any, ...], type[Exception], str]] = [
    ("too big", token_loss, (Z, INTEGERS + 5), ValueError, r"labels must be in \[0, 5\) or -100 \(ignored\), got 5"),
    ("negative", token_loss, (Z, INTEGERS - 1), ValueError, "got -1; for another number of classes load .*num_labels"),
    ("floats", token_loss, (Z, FLOATS), TypeError, "labels must be integers, got torch.float32"),
    ("bools", token_loss, (Z, INTEGERS.bool()), TypeError, "labels must be integers, got torch.bool"),
    ("shape", token_loss, (Z, INTEGERS[:, :2]), ValueError, r"must have shape \(2, 3\), got \(2, 2\)"),
    ("smoothed: too big", smoothed_loss, (Z, INTEGERS + 5, 0.1), ValueError, r"in \[0, 5\) or -100 .* got 5"),
    ("smoothed: ignored", smoothed_loss, (Z, INTEGERS + IGNORED, 0.1, 0), ValueError, r"or 0 \(ignored\), got -100"),
    ("smoothed: shape", smoothed_loss, (Z, INTEGERS.T, 0.1), ValueError, r"must have shape \(2, 3\), got \(3, 2\)"),
    ("smoothed: floats", smoothed_loss, (Z, FLOATS, 0.1), TypeError, "labels must be integers"),
    ("class too big", classification_loss, (Z[0], torch.tensor([5, 0, 0]), None), ValueError, "got 5"),
    ("classes, batch", classification_loss, (Z[0], INTEGERS[:, 0], None), ValueError, r"must have shape \(3,\), got \(2,\)"),
    ("classes as floats", classification_loss, (Z[0], torch.zeros(3), "single_label_classification"), TypeError, "integers"),
    ("regression, batch", classification_loss, (Z1, torch.zeros(3), None), ValueError, r"must hold 2 numbers, got shape \(3,\)"),
    ("regression, shape", classification_loss, (Z[0], torch.zeros(3), "regression"), ValueError,
     r"regression labels must have the shape of the logits \(3, 5\), got \(3,\)"),
    ("multi, shape", classification_loss, (Z[0], torch.zeros(3), None), ValueError,
     r"multi_label_classification labels must have the shape of the logits \(3, 5\)"),
    ("multi, range", classification_loss, (Z[0], torch.full((3, 5), 1.5), None), ValueError, "between 0 and 1"),
    ("span, batch", span_loss, (Z1, Z1, torch.zeros(3).long(), torch.zeros(2).long()), ValueError, "must be 2 integers"),
    ("span, floats", span_loss, (Z1, Z1, torch.zeros(2).long(), torch.zeros(2)), ValueError, "of torch.float32"),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "given", "kind", "message"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_errors(loss: Callable[..., Any], given: tuple[Any, ...], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        loss(*given)


def test_labels_at_the_edges_pass() -> None:
    check_labels(torch.tensor([0, 4, IGNORED]), 5)
    check_labels(torch.tensor([], dtype=torch.long), 5)
    assert math.isfinite(token_loss(torch.zeros(3, 5), torch.tensor([0, 4, IGNORED])).item())
