"""Keys and values of the tokens already seen, so that a decoder computes only the new ones.

A forward leaves the cache that it is given as it was and returns a longer one: the two share memory. New keys are written
behind the old ones into memory that doubles when it is full, so that a token costs the same however many came before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import KeyEntry, SequenceKey, register_pytree_node

from minitrans.attention.bias import AttentionBias, BiasOfBeginning
from minitrans.attention.recording import being_traced
from minitrans.errors import NotSupportedError

_FIRST = 64  # tokens that the memory holds at first


class _Store:
    """Memory for keys and values, (B, G, capacity, K) each, and how much of it is taken by whoever came furthest."""

    def __init__(self, keys: Tensor, values: Tensor, filled: int) -> None:
        self.keys, self.values, self.filled = keys, values, filled


class GrowingCache:
    """Keys and values of one self-attention, of any number of tokens."""

    def __init__(self) -> None:
        self.length = 0
        self._store: _Store | None = None

    @property
    def key(self) -> Tensor | None:
        """(B, G, S, K), or None while it is empty."""
        return None if self._store is None else self._filled(self._store.keys)

    @property
    def value(self) -> Tensor | None:
        """(B, G, S, K), or None while it is empty."""
        return None if self._store is None else self._filled(self._store.values)

    def _filled(self, memory: Tensor) -> Tensor:
        # no view where none is needed: an exporter takes the sizes of a view's base for constants
        return memory if memory.shape[2] == self.length else memory.narrow(2, 0, self.length)

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Appends (B, G, T, K) keys and values; returns all of them, (B, G, S, K)."""
        # what a backward pass may need must not be written over, and a recorded graph can lengthen tensors but not memory
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or being_traced():
            if self.key is not None and self.value is not None:
                key, value = torch.cat([self.key, key], dim=2), torch.cat([self.value, value], dim=2)
            self.hold(key, value)
            return key, value
        return self.write(key, value)

    def placed(self, bias: AttentionBias | None) -> AttentionBias | None:
        """What is added to the scores of the tokens so far, over all keys that `extend` returned."""
        return bias

    def hold(self, key: Tensor, value: Tensor) -> None:
        """Takes (B, G, S, K) keys and values as they are: what comes after is written elsewhere."""
        self.length = key.shape[2]
        self._store = _Store(key, value, self.length)

    def write(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """`extend`, where nothing is recorded and no gradient is asked for."""
        start, end = self.length, self.length + key.shape[2]
        store = self._store
        # of a store that another has filled further, or that belongs to inference mode, this takes a copy of its own
        if (
            store is None
            or store.filled != start
            or end > store.keys.shape[2]
            or store.keys.is_inference() != torch.is_inference_mode_enabled()
        ):
            store = self._store = self._larger(key, self.capacity_for(end))
        store.keys.narrow(2, start, end - start).copy_(key)
        store.values.narrow(2, start, end - start).copy_(value)
        store.filled = self.length = end
        return store.keys.narrow(2, 0, end), store.values.narrow(2, 0, end)

    def capacity_for(self, length: int) -> int:
        """How many tokens a new store holds that must hold so many."""
        return max(_FIRST, 2 * length)

    def reorder(self, rows: Tensor) -> None:
        """Row b becomes what row rows[b] was; (B') int64, as beams are chosen."""
        if self._store is not None:
            keys, values = (self._rows(each, rows) for each in (self._store.keys, self._store.values))
            self._store = _Store(keys, values, self.length)

    def _rows(self, memory: Tensor, rows: Tensor) -> Tensor:
        """These rows of keys or values, of which only what is written is copied."""
        if torch.is_grad_enabled():
            return memory.index_select(0, rows)
        new = self._blank(memory, (len(rows), *memory.shape[1:]))
        torch.index_select(self._filled(memory), 0, rows, out=new.narrow(2, 0, self.length))
        return new

    def _blank(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """Memory that is not read before it is written."""
        return like.new_empty(shape)

    def gather(self, places: Tensor) -> None:
        """Token s of row b becomes what token places[b, s] was; (B, S') int64."""
        if self._store is not None:
            index = places[:, None, :, None].expand(-1, self._store.keys.shape[1], -1, -1)
            keys, values = (
                each.gather(2, index.expand(-1, -1, -1, each.shape[3]))
                for each in (self._store.keys, self._store.values)
            )
            self.hold(keys, values)

    def crop(self, length: int) -> None:
        """Forgets all tokens but the first `length`."""
        self.length = min(length, self.length)

    def fork(self) -> GrowingCache:
        """The same tokens; what is appended to the one, the other does not see."""
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def _larger(self, like: Tensor, capacity: int) -> _Store:
        shape = (*like.shape[:2], capacity, like.shape[3])
        store = _Store(self._blank(like, shape), self._blank(like, shape), self.length)
        if self._store is not None:
            store.keys[:, :, : self.length] = self._store.keys[:, :, : self.length]
            store.values[:, :, : self.length] = self._store.values[:, :, : self.length]
        return store


class StaticCache(GrowingCache):
    """Keys and values of one self-attention in memory of a fixed size, never moved: S is `capacity` at every step.

    Args:
        capacity: tokens that it holds; what is not written yet is zero, and the model's mask hides it.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes (B, G, T, K) keys and values; returns the whole memory, (B, G, capacity, K).

        Raises:
            ValueError: where they do not fit any more, or carry gradients. NotSupportedError: in a trace.
        """
        if being_traced():
            raise NotSupportedError("a static cache cannot be traced: its place would be a constant; use a growing one")
        if key.requires_grad or value.requires_grad:
            raise ValueError("a static cache writes over its memory and keeps no gradients: call under torch.no_grad()")
        return self.write(key, value)

    def write(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """As `extend`."""
        if self.length + key.shape[2] > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens, got {self.length + key.shape[2]}")
        super().write(key, value)
        assert self._store is not None
        return self._store.keys, self._store.values

    def placed(self, bias: AttentionBias | None) -> AttentionBias | None:
        """The same, and nothing where no token is."""
        return None if bias is None else BiasOfBeginning(bias, self.length)

    def capacity_for(self, length: int) -> int:
        """Always the same."""
        return self.capacity

    def _blank(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        """Zeros: attention reads all of it, and multiplies what is not written by 0."""
        return like.new_zeros(shape)


class CrossCache:
    """Keys and values of a memory, computed once.

    Attributes:
        shared: (B / fan, G, S, K) each.
        fan: how many neighbouring texts, such as beams, have each row of them in common.
    """

    def __init__(self) -> None:
        self.shared: tuple[Tensor, Tensor] | None = None
        self.fan = 1
        self._spread: tuple[Tensor, Tensor] | None = None

    @property
    def key(self) -> Tensor | None:
        """(B, G, S, K), or None while it is empty."""
        return None if self.shared is None else self.spread()[0]

    @property
    def value(self) -> Tensor | None:
        """(B, G, S, K), or None while it is empty."""
        return None if self.shared is None else self.spread()[1]

    def spread(self) -> tuple[Tensor, Tensor]:
        """Keys and values with a row for each text."""
        assert self.shared is not None
        if self._spread is None:
            key, value = self.shared
            rows = (
                (key, value)
                if self.fan == 1
                else (key.repeat_interleave(self.fan, 0), value.repeat_interleave(self.fan, 0))
            )
            self._spread = rows
        return self._spread

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps (B, G, S, K) keys and values of the whole memory, and returns them."""
        self.shared, self.fan, self._spread = (key, value), 1, None
        return key, value

    def reorder(self, rows: Tensor) -> None:
        """Row b becomes what row rows[b] was; nothing is moved while beams change places with beams of the same text."""
        if self.shared is None:
            return
        wanted = rows // self.fan
        kept, counts = torch.unique_consecutive(wanted, return_counts=True)
        fan = int(counts.max()) if len(rows) else 1
        if not bool((counts == fan).all()):
            kept, fan = wanted, 1
        if fan != self.fan or not torch.equal(kept, torch.arange(len(self.shared[0]), device=rows.device)):
            key, value = self.shared
            self.shared, self.fan, self._spread = (key.index_select(0, kept), value.index_select(0, kept)), fan, None

    def crop(self, length: int) -> None:
        """Nothing: the memory stays."""

    def fork(self) -> CrossCache:
        """The same memory."""
        new = CrossCache()
        new.__dict__.update(self.__dict__)
        return new


class LayerCache:
    """What one decoder block remembers.

    Args:
        self_attention: of its own tokens.
        cross_attention: of the memory.
    """

    def __init__(self, self_attention: GrowingCache, cross_attention: CrossCache | None = None) -> None:
        self.self_attention = self_attention
        self.cross_attention = CrossCache() if cross_attention is None else cross_attention

    @classmethod
    def of_tensors(cls, tensors: Sequence[Tensor], capacity: int | None = None) -> LayerCache:
        """From what `tensors` gives, and the capacity of a static cache."""
        new = cls(GrowingCache() if capacity is None else StaticCache(capacity))
        if tensors:
            new.self_attention.hold(*tensors[:2])
        if len(tensors) > 2:
            new.cross_attention.extend(*tensors[2:])
        return new

    def tensors(self) -> tuple[Tensor, ...]:
        """Keys and values of the tokens, (B, G, S, K) each, then those of the memory; without those that are not there yet."""
        pairs = (
            self.self_attention.key,
            self.self_attention.value,
            self.cross_attention.key,
            self.cross_attention.value,
        )
        return tuple(each for each in pairs if each is not None)


class Cache:
    """What a decoder remembers: a `LayerCache` a block; a node of torch's pytrees, whose leaves are the keys and values.

    Args:
        layers: of the blocks, in order; or their tensors, as iteration gives them and DataParallel's gather joins them.
    """

    def __init__(self, layers: Iterable[LayerCache | Sequence[Tensor]]) -> None:
        self.layers = tuple(
            layer if isinstance(layer, LayerCache) else LayerCache.of_tensors(layer) for layer in layers
        )

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Of each block its keys and values, see `LayerCache.tensors`."""
        return (layer.tensors() for layer in self.layers)

    @classmethod
    def growing(cls, layers: int) -> Cache:
        """An empty one for so many blocks, without a limit."""
        return cls([LayerCache(GrowingCache()) for _ in range(layers)])

    @classmethod
    def static(cls, layers: int, capacity: int) -> Cache:
        """An empty one for so many blocks and tokens, whose tensors keep their shapes and places."""
        return cls([LayerCache(StaticCache(capacity)) for _ in range(layers)])

    def get_seq_length(self) -> int:
        """How many tokens it holds."""
        return self.layers[0].self_attention.length if self.layers else 0

    @property
    def capacity(self) -> int | None:
        """How many keys a block sees at every step; None where that grows."""
        first = self.layers[0].self_attention if self.layers else None
        return first.capacity if isinstance(first, StaticCache) else None

    def reorder(self, rows: Tensor) -> None:
        """Row b becomes what row rows[b] was, in every block; (B') int64, as beams are chosen."""
        for layer in self.layers:
            layer.self_attention.reorder(rows)
            layer.cross_attention.reorder(rows)

    def gather(self, places: Tensor) -> None:
        """Token s of row b becomes what token places[b, s] was, in every block; (B, S') int64. A memory stays."""
        for layer in self.layers:
            layer.self_attention.gather(places)

    def crop(self, length: int) -> None:
        """Forgets all tokens but the first `length`, as after a rejected guess.

        Raises:
            ValueError: for a negative length.
        """
        if length < 0:
            raise ValueError(f"crop takes the number of tokens to keep, got {length}")
        for layer in self.layers:
            layer.self_attention.crop(length)

    def fork(self) -> Cache:
        """The same tokens; what is appended to the one, the other does not see."""
        return Cache([LayerCache(layer.self_attention.fork(), layer.cross_attention.fork()) for layer in self.layers])


def _leaves(cache: Cache) -> tuple[list[Tensor], list[Any]]:
    layers = list(cache)
    return [tensor for layer in layers for tensor in layer], [cache.capacity, *map(len, layers)]


def _keyed_leaves(cache: Cache) -> tuple[list[tuple[KeyEntry, Any]], list[Any]]:
    leaves, context = _leaves(cache)
    return [(SequenceKey(number), leaf) for number, leaf in enumerate(leaves)], context


def _of_leaves(leaves: Iterable[Tensor], context: list[Any]) -> Cache:
    capacity, *counts = context
    each = iter(leaves)
    return Cache([LayerCache.of_tensors(tuple(islice(each, count)), capacity) for count in counts])


register_pytree_node(
    Cache, _leaves, _of_leaves, serialized_type_name=f"{__name__}.Cache", flatten_with_keys_fn=_keyed_leaves
)
