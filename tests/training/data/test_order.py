"""Every example once an epoch, within the budget, about as long as its neighbours, and the same after a restart."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from minitrans.training.data.order import Order

LENGTHS = torch.randint(3, 60, (500,), generator=torch.Generator().manual_seed(0)).tolist()


def padded(order: Order, steps: list[list[int]]) -> int:
    return sum(len(step) * max(order.lengths[number] for number in step) for step in steps)


@pytest.mark.parametrize("limit", [{"rows": 16}, {"tokens": 300}, {"tokens": 300, "unpadded": True}])
def test_an_epoch_has_every_example_once(limit: dict[str, int]):
    order = Order(LENGTHS, seed=3, **limit)
    for epoch in (0, 1):
        steps = order.steps(epoch)
        assert sorted(number for step in steps for number in step) == list(range(len(LENGTHS)))
        for step in steps:
            assert len(step) <= order.rows if order.rows else True
            size = sum(LENGTHS[number] for number in step) if order.unpadded else padded(order, [step])
            assert order.tokens is None or 0 < size <= order.tokens
    assert order.steps(0) == Order(LENGTHS, seed=3, **limit).steps(0)
    assert order.steps(0) != order.steps(1) != Order(LENGTHS, seed=4, **limit).steps(1)


def test_buckets_save_padding_and_steps_still_come_in_any_order():
    plain, bucketed = Order(LENGTHS, rows=16, pool=1), Order(LENGTHS, rows=16)
    real = sum(LENGTHS)
    assert padded(plain, plain.steps(0)) > 1.6 * real
    assert padded(bucketed, bucketed.steps(0)) < 1.06 * real
    longest = [max(LENGTHS[number] for number in step) for step in bucketed.steps(0)]
    assert longest != sorted(longest)
    unshuffled = Order(LENGTHS, rows=16, shuffle=False)
    assert [number for step in unshuffled.steps(7) for number in step] == list(range(500))


@pytest.mark.parametrize("place", [(0, 0), (0, 17), (1, 31), (1, 32)])
def test_a_restart_goes_on_where_it_was(place: tuple[int, int]):
    order = Order(LENGTHS, seed=1, rows=16)
    whole = list(islice(order.walk(), 80))
    rest = [each for each in whole if each[:2] >= place]
    assert list(islice(order.walk(*place), len(rest))) == rest


@pytest.mark.parametrize(("ranks", "micro_batches"), [(1, 1), (1, 3), (2, 2), (4, 1), (3, 7)])
def test_parts_of_a_step_are_the_step(ranks: int, micro_batches: int):
    order = Order(LENGTHS, rows=20)
    for step in order.steps(0):
        parts = order.parts(step, ranks, micro_batches)
        assert [len(of_rank) for of_rank in parts] == [micro_batches] * ranks
        assert sorted(number for of_rank in parts for part in of_rank for number in part) == sorted(step)
        sizes = [len(part) for of_rank in parts for part in of_rank]
        assert max(sizes) - min(sizes) <= 1
    assert order.parts([5], 2, 1) in ([[[5]], [[]]], [[[]], [[5]]])


def test_what_cannot_be_ordered():
    for message, given in {
        "the data set is empty": {"lengths": [], "rows": 1},
        "got rows=None and tokens=None": {"lengths": [1]},
        "got rows=1 and tokens=1": {"lengths": [1], "rows": 1, "tokens": 1},
        "a step of 3 rows is more than the data set has: 2 examples; lower batch_size": {"lengths": [1, 1], "rows": 3},
        "example 1 has 9 tokens, a step at most 8": {"lengths": [1, 9], "tokens": 8},
        "at least 1, got 0": {"lengths": [1], "rows": 0},
    }.items():
        with pytest.raises(ValueError, match=message):
            Order(**given)
    assert Order([5], rows=1).steps(0) == [[0]]
