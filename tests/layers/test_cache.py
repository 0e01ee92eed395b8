"""Caches of one attention and of a whole decoder: what is appended, forked, chosen, forgotten, and never written over."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from minitrans.attention.context import Context
from minitrans.errors import NotSupportedError
from minitrans.layers.cache import Cache, CrossCache, GrowingCache, LayerCache, StaticCache
from minitrans.layers.multi_head_attention import CrossAttention

# pairwise different: B=2, G=3, K=5
B, G, K = 2, 3, 5
KINDS = {"growing": GrowingCache, "static": lambda: StaticCache(200)}


def some(tokens: int, **options: Any) -> Tensor:
    return torch.randn(B, G, tokens, K, dtype=torch.float64, **options)


def both(cache: GrowingCache) -> tuple[Tensor, Tensor]:
    assert cache.key is not None
    assert cache.value is not None
    return cache.key, cache.value


def filled(kind: str, *tokens: int) -> tuple[Any, Tensor, Tensor]:
    """A cache that was extended by so many tokens each time, and all its keys and values."""
    cache = KINDS[kind]()
    keys, values = [some(count) for count in tokens], [some(count) for count in tokens]
    for key, value in zip(keys, values, strict=True):
        cache.extend(key, value)
    return cache, torch.cat(keys, dim=2), torch.cat(values, dim=2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grad", [False, True])
def test_tokens_come_behind_those_before(kind: str, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        cache, keys, values = filled(kind, 3, 1, 60, 1, 70)  # beyond what the first memory holds
    assert cache.length == 135
    key, value = both(cache)
    assert torch.equal(key, keys)
    assert torch.equal(value, values)


def test_nothing_yet() -> None:
    for cache in (GrowingCache(), StaticCache(4), CrossCache()):
        assert cache.key is None
        assert cache.value is None
        cache.reorder(torch.tensor([1, 0]))
        cache.crop(0)
        assert cache.fork().key is None


@torch.no_grad()
def test_what_extend_returns() -> None:
    cache, keys, _ = filled("growing", 3)
    new = some(2)
    returned, _ = cache.extend(new, new)
    assert torch.equal(returned, torch.cat([keys, new], dim=2))
    static, keys, _ = filled("static", 3)
    returned, _ = static.extend(new, new)
    assert returned.shape == (B, G, 200, K), "the whole memory"
    assert torch.equal(returned[:, :, :5], torch.cat([keys, new], dim=2))
    assert (returned[:, :, 5:] == 0).all()


@torch.no_grad()
def test_memory_stays_where_it_is() -> None:
    """A token costs the same however many came before: the old ones are not copied."""
    cache, _, _ = filled("growing", 100)
    cache.extend(some(1), some(1))  # takes twice the memory
    place = both(cache)[0].data_ptr()
    for _ in range(90):
        cache = cache.fork()
        cache.extend(some(1), some(1))
    assert both(cache)[0].data_ptr() == place
    static = StaticCache(9)
    places = {static.extend(some(1), some(1))[0].data_ptr() for _ in range(9)}
    assert len(places) == 1


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_forks_do_not_see_each_other(kind: str, grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        past, keys, _ = filled(kind, 3)
        forks = [past.fork() for _ in range(3)]
        new = [some(2) for _ in forks]
        for fork, key in zip(forks, new, strict=True):
            fork.extend(key, key)
        assert torch.equal(both(past)[0], keys)
        assert past.length == 3
        for fork, key in zip(forks, new, strict=True):
            assert type(fork) is type(past)
            assert torch.equal(both(fork)[0], torch.cat([keys, key], dim=2))
        past.extend(new[0], new[0])  # and the past goes its own way too
        assert torch.equal(both(forks[1])[0], torch.cat([keys, new[1]], dim=2))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_crop_forgets_and_goes_on(kind: str) -> None:
    cache, keys, _ = filled(kind, 6)
    longer = cache.fork()
    cache.crop(4)
    assert cache.length == 4
    assert torch.equal(both(cache)[0], keys[:, :, :4])
    new = some(2)
    cache.extend(new, new)
    assert torch.equal(both(cache)[0], torch.cat([keys[:, :, :4], new], dim=2))
    assert torch.equal(both(longer)[0], keys), "the fork forgot nothing"
    cache.crop(100)
    assert cache.length == 6
    cache.crop(0)
    cache.extend(new, new)
    assert torch.equal(both(cache)[0], new)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_reorder_chooses_rows(kind: str) -> None:
    cache, keys, values = filled(kind, 3, 2)
    before = cache.fork()
    rows = torch.tensor([1, 1, 0])  # another number of them too
    cache.reorder(rows)
    assert torch.equal(both(cache)[0], keys[rows])
    assert torch.equal(both(cache)[1], values[rows])
    new = torch.randn(3, G, 1, K, dtype=torch.float64)
    cache.extend(new, new)
    assert torch.equal(both(cache)[0], torch.cat([keys[rows], new], dim=2))
    assert torch.equal(both(before)[0], keys)


def test_gradients_reach_every_token() -> None:
    """Keys that no gradient is asked of are not written over either: a query's gradient needs them."""
    for wants in (True, False):
        cache = GrowingCache()
        parts = [some(count, requires_grad=wants) for count in (2, 1, 3)]
        query = some(1, requires_grad=True)
        total = sum((query @ cache.extend(part, part)[0].mT).square().sum() for part in parts)
        expected = sum((query @ torch.cat(parts[:count], dim=2).mT).square().sum() for count in (1, 2, 3))
        inputs = (query, *parts) if wants else (query,)
        for got, want in zip(torch.autograd.grad(total, inputs), torch.autograd.grad(expected, inputs), strict=True):  # type: ignore[arg-type]
            torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_a_graph_goes_on_without_one_and_back() -> None:
    cache, parts = GrowingCache(), []
    for mode in (
        torch.enable_grad,
        torch.no_grad,
        torch.inference_mode,
        torch.enable_grad,
        torch.inference_mode,
        torch.no_grad,
    ):
        with mode():
            part = some(2, requires_grad=mode is torch.enable_grad)
            cache = cache.fork()
            cache.extend(part, part)
            parts.append(part.detach().clone())
            assert both(cache)[0].is_inference() == (mode is torch.inference_mode)
    with torch.no_grad():
        assert torch.equal(both(cache)[0], torch.cat(parts, dim=2))
    with torch.enable_grad():
        new = some(1, requires_grad=True)
        key, _ = cache.extend(new, new)
        key.square().sum().backward()
        assert torch.equal(new.grad, 2 * new)  # type: ignore[arg-type]


def test_a_static_cache_refuses_gradients_and_more_than_it_holds() -> None:
    cache = StaticCache(4)
    with pytest.raises(ValueError, match=r"keeps no gradients: call under torch.no_grad\(\)"):
        cache.extend(some(2, requires_grad=True), some(2))
    with torch.no_grad():
        cache.extend(some(3), some(3))
        with pytest.raises(ValueError, match="the cache holds 4 tokens, got 5"):
            cache.extend(some(2), some(2))
        assert cache.length == 3
        cache.extend(some(1), some(1))


def test_a_static_cache_is_not_traced() -> None:
    def step(key: Tensor) -> Tensor:
        return StaticCache(4).extend(key, key)[0]

    with (
        torch.no_grad(),
        pytest.warns(DeprecationWarning, match="trace"),
        pytest.raises(NotSupportedError, match="use a growing one"),
    ):
        torch.jit.trace(step, some(2))


def test_keys_of_a_memory_are_computed_once() -> None:
    torch.manual_seed(0)
    module, cache = CrossAttention(15, 3).double(), CrossCache()
    memory, x = torch.randn(B, 7, 15, dtype=torch.float64), torch.randn(B, 4, 15, dtype=torch.float64)
    calls = []
    for name in ("query", "key", "value"):
        module.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    context = Context(memory=memory)
    with torch.no_grad():
        expected = module(x, context).output
        calls.clear()
        for place in range(4):
            got = module(x[:, place : place + 1], context, cache).output
            torch.testing.assert_close(got, expected[:, place : place + 1], rtol=0, atol=1e-12)
    assert sorted(calls) == ["key", *["query"] * 4, "value"]


def test_a_memory_is_chosen_and_never_cropped() -> None:
    cache, key, value = CrossCache(), some(3), some(3)
    cache.extend(key, value)
    fork = cache.fork()
    cache.crop(1)
    assert cache.key is key
    cache.reorder(torch.tensor([1, 0, 1]))
    assert cache.key is not None
    assert cache.value is not None
    assert torch.equal(cache.key, key[[1, 0, 1]])
    assert torch.equal(cache.value, value[[1, 0, 1]])
    assert fork.key is key


@torch.no_grad()
def test_of_all_blocks() -> None:
    cache = Cache.growing(2)
    assert (len(cache.layers), cache.get_seq_length(), cache.capacity) == (2, 0, None)
    assert Cache.static(3, 7).capacity == 7
    assert Cache([]).get_seq_length() == 0
    assert Cache([]).capacity is None
    keys = [some(4) for _ in cache.layers]
    for layer, key in zip(cache.layers, keys, strict=True):
        layer.self_attention.extend(key, -key)
        layer.cross_attention.extend(key[:, :, :3], -key[:, :, :3])
    fork = cache.fork()
    fork.crop(2)
    fork.reorder(torch.tensor([1, 0]))
    assert (cache.get_seq_length(), fork.get_seq_length()) == (4, 2)
    for layer, forked, key in zip(cache.layers, fork.layers, keys, strict=True):
        assert torch.equal(both(layer.self_attention)[0], key)
        assert torch.equal(both(forked.self_attention)[1], -key[[1, 0], :, :2])
        assert torch.equal(forked.cross_attention.key, key[[1, 0], :, :3])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="crop takes the number of tokens to keep, got -1"):
        cache.crop(-1)


@torch.no_grad()
def test_tensors_there_and_back() -> None:
    """Iteration gives each block's keys and values, of which another cache can be made."""
    cache = Cache.growing(3)
    assert list(cache) == [(), (), ()]
    key = some(4)
    for layer in cache.layers[:2]:
        layer.self_attention.extend(key, -key)
    cache.layers[1].cross_attention.extend(2 * key, 3 * key)
    tensors = list(cache)
    assert [len(layer) for layer in tensors] == [2, 4, 0]
    again = Cache(tensors)
    assert again.get_seq_length() == 4
    for ours, theirs in zip(again, tensors, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    again.layers[0].self_attention.extend(key, key)
    assert cache.get_seq_length() == 4
    assert torch.equal(both(cache.layers[0].self_attention)[0], key)
    static = LayerCache.of_tensors(tensors[0], capacity=9)
    assert isinstance(static.self_attention, StaticCache)
    assert static.self_attention.extend(key, key)[0].shape[2] == 9
    assert torch.equal(both(static.self_attention)[0], torch.cat([key, key], dim=2))


def test_beams_share_the_rows_of_a_memory() -> None:
    """Whatever becomes of the texts, each keeps its own memory; while beams only change places, nothing is moved."""
    cache = CrossCache()
    memory = some(4)  # a row for each text
    cache.extend(memory, -memory)
    expected = memory
    steps = {(0, 0, 0, 1, 1, 1): 3, (2, 0, 0, 5, 4, 3): 3, (3, 5, 4): 3, (2, 1): 2, (1, 0, 0): 3, (0,): 1, (): 1}
    for rows, fan in steps.items():
        before, index = cache.shared, torch.tensor(rows, dtype=torch.long)
        cache.reorder(index)
        expected = expected[index]
        assert (cache.fan, cache.fan * len(cache.shared[0])) == (fan, len(rows))
        assert torch.equal(cache.key, expected)
        assert torch.equal(cache.value, -expected)
        assert rows != (2, 0, 0, 5, 4, 3) or cache.shared is before
