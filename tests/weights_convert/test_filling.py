"""Values on their way from a file into a model: read by pieces, by several threads, each checked for NaN and infinities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from minitrans.models.auto import class_by_name
from minitrans.models.loading import load_model
from weights_convert import checkpoint
from weights_convert.filling import INTEGERS, _is_finite

DTYPES = sorted(INTEGERS, key=str)
BAD = (float("nan"), float("inf"), float("-inf"))


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def ordinary(dtype: torch.dtype) -> torch.Tensor:
    limits = torch.finfo(dtype)
    values = [0.0, -0.0, 1.0, -1.0, limits.max, limits.min, limits.tiny, -limits.tiny, limits.smallest_normal / 2]
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_number_that_is_not_finite_is_seen(dtype: torch.dtype) -> None:
    assert _is_finite(ordinary(dtype))
    assert _is_finite(torch.empty(0, 3, dtype=dtype))
    for bad in BAD:
        for place in range(9):
            values = ordinary(dtype)
            values[place] = bad
            assert not _is_finite(values), (bad, place)
    negative_nan = ordinary(dtype).view(INTEGERS[dtype])
    negative_nan[4] = -1  # all bits set
    assert not _is_finite(negative_nan.view(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_finite_check_follows_strides(dtype: torch.dtype) -> None:
    whole = torch.zeros(6, 5, dtype=dtype)
    whole[3, 4] = torch.inf
    assert not _is_finite(whole.t())
    assert _is_finite(whole[:, :4])
    assert not _is_finite(whole.t()[4, ::3])


@pytest.mark.parametrize("size", [8, 52, 1 << 20])
def test_every_byte_arrives_whatever_the_pieces(
    size: int, threads: int, reference: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "PIECE_BYTES", size)
    source = reference("BertModel")
    broken = "encoder.layer.1.intermediate.dense.weight"
    source.tensors[broken][0, 1] = torch.nan  # early: what follows must be read all the same
    model, report = load_model(class_by_name("BertModel"), source.write().folder)
    stored = {name: tensor.numpy().tobytes() for name, tensor in source.tensors.items()}
    rows = {row.sources[0]: row for row in report.rows}
    state = model.state_dict()
    assert {key: state[row.target].numpy().tobytes() for key, row in rows.items()} == {key: stored[key] for key in rows}
    assert [key for key, row in rows.items() if not row.finite] == [broken]


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_nan_is_seen_where_the_dtype_changes(dtype: str, reference: Callable[..., Any]) -> None:
    source = reference("BertModel")
    source.tensors["pooler.dense.weight"][1, 1] = -torch.inf
    _, report = load_model(class_by_name("BertModel"), source.write().folder, dtype=dtype)
    assert [row.target for row in report.rows if not row.finite] == ["pooler.dense.weight"]
