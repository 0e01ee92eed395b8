"""Keys and values of the tokens already seen, so that a decoder computes only the new ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class KeyValue(NamedTuple):
    """Projected keys and values of one attention: each (B, G, S, K)."""

    key: Tensor
    value: Tensor


class LayerCache(NamedTuple):
    """What one decoder block remembers; `cross_attention` is None where the block has none."""

    self_attention: KeyValue
    cross_attention: KeyValue | None


@dataclass(frozen=True, eq=False)
class KeyValueCache:
    """What a decoder remembers, a `LayerCache` a block. A forward never changes it: it returns a longer one."""

    layers: tuple[LayerCache, ...]

    def get_seq_length(self) -> int:
        """How many tokens it holds."""
        return self.layers[0].self_attention.key.shape[2] if self.layers else 0
