"""Grouped-query attention of a multi-head one: key and value heads averaged by groups (Ainslie et al. 2023, "GQA", 2.1)."""

from __future__ import annotations

from torch import Tensor

from minitrans.attention.context import Context
from minitrans.attention.variant import Identity, LayerSizes, Variant


class GroupedQuery(Variant):
    """The mean of the keys and of the values of each group of heads, which is what the mean of their weights makes.

    A cache holds the means alone.

    Args:
        sizes: of the block.
        groups: how many are left; 1 is multi-query attention (Shazeer 2019), as many as there are or more change nothing.
    """

    name = "grouped_query"
    trial = {"groups": 1}
    identity = Identity({"groups": 10**6})
    laws = ("rows sum to one", "linear in the values")

    def __init__(self, sizes: LayerSizes, *, groups: int = 1) -> None:
        super().__init__(sizes)
        self.groups = min(groups, sizes.kv_heads)
        if groups < 1 or sizes.kv_heads % self.groups:
            raise ValueError(f"{sizes.kv_heads} key heads do not make {groups} groups of one size")

    def project(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """(B, G, T, K) -> (B, groups, T, K), or (N, G, K) -> (N, groups, K), of keys and values."""
        return query, *(x.unflatten(1, (self.groups, -1)).mean(dim=2) for x in (key, value))  # type: ignore[no-untyped-call]
