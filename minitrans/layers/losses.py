"""Losses of the task heads, with labels checked before they reach a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import has_values

IGNORED = -100

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]
# Over how many labels a loss is averaged, where that is not those of the call: batches whose gradients are added count all
Items = Tensor | float | None
TwoItems = tuple[Items, Items]  # of a head with two losses, each over things of its own


def token_loss(logits: Tensor, labels: Tensor, items: Items = None) -> Tensor:
    """Cross-entropy averaged over the labels that are not -100 (B4: NaN where all of them are).

    Args:
        logits: (..., C).
        labels: (...) integers in [0, C), or -100 to leave a place out.
        items: see `Items`.

    Raises:
        ValueError: where shapes differ or a label is out of range. TypeError: where labels are not integers.
    """
    return smoothed_loss(logits, labels, smoothing=0.0, items=items)


def next_token_labels(labels: Tensor, layout: PackedLayout | None = None) -> Tensor:
    """For each position the label of the position after it; -100 where a sequence ends.

    Args:
        labels: (B, T); or (N) with a layout.
        layout: where the sequences of a packed batch lie.
    """
    following = F.pad(labels[..., 1:], (0, 1), value=IGNORED)
    if layout is None:
        return following
    after = torch.arange(1, len(labels) + 1, dtype=torch.int32, device=labels.device)
    return following.masked_fill(torch.isin(after, layout.cu_seqlens), IGNORED)


def replaced_token_loss(logits: Tensor, labels: Tensor, real: Tensor | None, items: Items = None) -> Tensor:
    """Binary cross-entropy of "this token was replaced", averaged over the real tokens (E1; Clark et al. 2020).

    Args:
        logits: (...).
        labels: (...), 1 = replaced, 0 = original.
        real: (...) bool, the tokens that count; None = all.
        items: see `Items`.

    Raises:
        ValueError: where shapes differ or a label of a token that counts is neither.
    """
    check_shape(labels, logits.shape)
    targets, counts = labels.to(logits.dtype), None
    if real is not None:
        check_shape(real, logits.shape, "attention_mask must have shape")
        targets, counts = targets.masked_fill(~real, 0), real.to(logits.dtype)
        items = counts.sum() if items is None else items
    if has_values(targets) and bool(((targets != 0) & (targets != 1)).any()):
        raise ValueError("labels must be 1 where a token was replaced and 0 where it was not")
    return _averaged(F.binary_cross_entropy_with_logits, logits, targets, items, weight=counts)


def classification_loss(
    logits: Tensor, labels: Tensor, problem_type: ProblemType | None, items: Items = None
) -> Tensor:
    """The loss of a sequence classifier (B5).

    Without a `problem_type` the labels tell: one column is a regression, integers a single label, floats many labels.

    Args:
        logits: (B, C).
        labels: (B) class ids; or (B, C) floats (multi label); or (B) / (B, C) floats (regression).
        problem_type: which of the three, or None.
        items: see `Items`.

    Raises:
        ValueError, TypeError: where labels do not fit the problem.
    """
    classes = logits.shape[-1]
    if problem_type is None:
        integers = not labels.is_floating_point()
        problem_type = (
            "regression"
            if classes == 1
            else "single_label_classification"
            if integers
            else "multi_label_classification"
        )
    if problem_type == "single_label_classification":
        if classes == 1:
            raise ValueError(
                "one class cannot be learnt, its loss is always 0: load the model with num_labels=2, or more"
            )
        labels = labels.squeeze(-1) if labels.dim() == 2 and labels.shape[-1] == 1 else labels
        return token_loss(logits, labels, items)
    targets = labels.to(logits.dtype)
    if problem_type == "regression" and classes == 1:
        if targets.numel() != logits.numel():
            raise ValueError(f"regression labels must hold {logits.numel()} numbers, got shape {tuple(labels.shape)}")
        return _averaged(F.mse_loss, logits.flatten(), targets.flatten(), items)
    check_shape(labels, logits.shape, f"{problem_type} labels must have the shape of the logits")
    if problem_type == "regression":
        return _averaged(F.mse_loss, logits, targets, items)
    if has_values(targets) and targets.numel() and (targets.min() < 0 or targets.max() > 1):
        raise ValueError("multi-label targets must be between 0 and 1")
    return _averaged(F.binary_cross_entropy_with_logits, logits, targets, items)


def soft_label_loss(logits: Tensor, labels: Tensor, items: Items = None) -> Tensor:
    """Mean cross-entropy against distributions.

    Args:
        logits: (B, C).
        labels: (B, C) weights of the classes.
        items: see `Items`.

    Raises:
        ValueError: where shapes differ.
    """
    check_shape(labels, logits.shape, "labels of several classes must have the shape of the logits")
    return _averaged(F.cross_entropy, logits, labels.to(logits.dtype), items)


def span_loss(
    start_logits: Tensor,
    end_logits: Tensor,
    start_positions: Tensor,
    end_positions: Tensor,
    items: Items | TwoItems = None,
) -> Tensor:
    """Mean of the cross-entropies of a span's first and last token; a position outside [0, T) is ignored (B5).

    As the reference does, positions are clamped to [0, T] and T is left out: a negative one counts as token 0.

    Args:
        start_logits: (B, T).
        end_logits: (B, T).
        start_positions: (B) or (B, 1) integers.
        end_positions: (B) or (B, 1) integers.
        items: see `Items`; or two, where a batch has other numbers of first than of last tokens.
    """
    length = start_logits.shape[1]
    first, last = items if isinstance(items, tuple) else (items, items)
    losses = []
    for logits, positions, count in ((start_logits, start_positions, first), (end_logits, end_positions, last)):
        if positions.is_floating_point() or positions.numel() != logits.shape[0]:
            got = f"got shape {tuple(positions.shape)} of {positions.dtype}"
            raise ValueError(f"start and end positions must be {logits.shape[0]} integers, {got}")
        targets = positions.flatten().long().clamp(0, length)
        losses.append(_averaged(F.cross_entropy, logits, targets, count, ignore_index=length))
    return (losses[0] + losses[1]) / 2


def smoothed_loss(
    logits: Tensor, labels: Tensor, smoothing: float, ignored: int = IGNORED, items: Items = None
) -> Tensor:
    """Cross-entropy against (1 - ε) on the label plus ε / V on every token (Szegedy et al. 2016, section 7).

    Args:
        logits: (..., V).
        labels: (...) integers in [0, V), or `ignored`.
        smoothing: ε.
        ignored: the label that is left out.
        items: see `Items`.

    Raises:
        ValueError: where shapes differ or a label is out of range. TypeError: where labels are not integers.
    """
    check_labels(labels, logits.shape[-1], ignored)
    check_shape(labels, logits.shape[:-1])
    flat = labels.flatten().long()
    return _averaged(
        F.cross_entropy, logits.flatten(0, -2), flat, items, ignore_index=ignored, label_smoothing=smoothing
    )


def _averaged(loss: Callable[..., Tensor], scores: Tensor, targets: Tensor, items: Items, **options: Any) -> Tensor:
    return (
        loss(scores, targets, **options) if items is None else loss(scores, targets, reduction="sum", **options) / items
    )


def check_labels(labels: Tensor, classes: int, ignored: int = IGNORED) -> None:
    """Raises TypeError or ValueError where labels are not integers in [0, classes) or `ignored`."""
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    wrong = (labels != ignored) & ((labels < 0) | (labels >= classes))
    if has_values(labels) and bool(wrong.any()):
        got = f"{int(labels[wrong][0])}; for another number of classes load the model with num_labels=..."
        raise ValueError(f"labels must be in [0, {classes}) or {ignored} (ignored), got {got}")


def check_shape(labels: Tensor, shape: tuple[int, ...], words: str = "labels must have shape") -> None:
    """Raises ValueError for another shape."""
    if labels.shape != shape:
        raise ValueError(f"{words} {tuple(shape)}, got {tuple(labels.shape)}")
