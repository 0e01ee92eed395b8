"""`check_attention` on mechanisms that are no softmax attention: one that is right, and some with a fault."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from minitrans.attention import AttentionResult, attend
from minitrans.errors import NotSupportedError
from minitrans.testing import check_attention


class Average:
    """Every query gets the mean of the values it may see."""

    name = "average"
    supports = frozenset({"key_padding", "causal", "packed", "gradient", "float64", "cross_lengths"})

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> AttentionResult:
        if options["layout"] is not None:
            value = value.transpose(0, 1)[None]
        queries, keys = (query.shape[0],) * 2 if options["layout"] is not None else (query.shape[2], key.shape[2])
        allowed = options["mask"].to_dense(queries, keys, query.device, options["layout"])
        weights = torch.ones(1, 1, queries, keys).to(value) if allowed is None else allowed.to(value)
        weights = weights.expand(value.shape[0], 1, queries, keys)
        output = (weights / weights.sum(-1, keepdim=True).clamp(min=1)) @ value + 0 * query.sum()
        return AttentionResult(output[0].transpose(0, 1) if options["layout"] is not None else output)


class Unmasked(Average):
    def __call__(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> AttentionResult:
        from minitrans.attention import AttentionMask

        return super().__call__(query, key, value, **options | {"mask": AttentionMask()})


class DividesByZero(Average):
    def __call__(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> AttentionResult:
        output = super().__call__(query, key, value, **options).output
        padding = options["mask"].key_padding
        if padding is None:
            return AttentionResult(output)
        return AttentionResult(output / padding.any(1)[:, None, None, None].to(output))


class MixesSamples(Average):
    def __call__(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> AttentionResult:
        output = super().__call__(query, key, value, **options).output
        return AttentionResult(output + value[:1].mean())


class MixesSequences(Average):
    def __call__(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> AttentionResult:
        output = super().__call__(query, key, value, **options).output
        return AttentionResult(output + value.mean() if options["layout"] is not None else output)


class PromisesWeights(Average):
    supports = Average.supports | {"weights"}


class Forgets(Average):
    calls = 0

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> AttentionResult:
        self.calls += 1
        return AttentionResult(super().__call__(query, key, value, **options).output + self.calls)


def test_a_right_one_passes_and_refuses_the_rest() -> None:
    report = check_attention(Average())
    assert "average, packed equals separate" in report.passed
    assert "average, grouped heads" in report.refused


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (Unmasked(), "what stands at padding changed real tokens"),
        (DividesByZero(), "output must be finite, and zero for a sample of padding only"),
        (MixesSamples(), "another order of the samples changed them"),
        (MixesSequences(), "a packed batch differs from its sequences"),
        (PromisesWeights(), "`supports` promises weights"),
        (Forgets(), "the same call gave another result"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Average) else "",
)
def test_fault_is_found(faulty: Average, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_attention(faulty)


def test_refusal_names_the_option_and_a_supporter() -> None:
    q = torch.randn(2, 3, 5, 4)
    with pytest.raises(NotSupportedError, match=r"'average' does not support dropout; supported by: full"):
        attend(q, q, q, attention=Average(), dropout_p=0.1)
    with pytest.raises(NotSupportedError, match=r"'average' does not support weights"):
        attend(q, q, q, attention=Average(), need_weights=True)


def test_a_mechanism_has_no_backend() -> None:
    q = torch.randn(2, 3, 5, 4)
    with pytest.raises(NotSupportedError, match="a mechanism of its own: it has no backend 'sdpa'; use 'auto'"):
        attend(q, q, q, attention=Average(), backend="sdpa")
