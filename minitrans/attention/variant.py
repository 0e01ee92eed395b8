"""What a variant of attention is: a module with up to four hooks, built in each block with the sizes of that block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minitrans.attention.bias import AttentionBias
from minitrans.attention.context import Context
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.attention.rules import AttentionResult, AttentionRules
from minitrans.errors import NotSupportedError


@dataclass(frozen=True)
class LayerSizes:
    """The sizes of the attention that a variant is built for.

    Attributes:
        width: D.
        heads: H.
        kv_heads: G.
        head_width: K.
        layer: number of the block, from 0.
        longest: the longest sequence of the model, where there is a limit.
    """

    width: int
    heads: int
    kv_heads: int
    head_width: int
    layer: int = 0
    longest: int | None = None


@dataclass(frozen=True)
class CallSizes:
    """The sizes of one call.

    Attributes:
        batch: B, sequences.
        queries: T, in a packed batch that of the longest sequence.
        keys: S, likewise.
        heads: H.
        device: where the tensors are.
        layout: of a packed batch.
        x: (B, T, D) or (N, D), what the queries were projected from.
        positions: (B, T) or (N), where each token of x stands in its text.
        first: see `Context`.
    """

    batch: int
    queries: int
    keys: int
    heads: int
    device: torch.device
    layout: PackedLayout | None = None
    x: Tensor | None = None
    positions: Tensor | None = None
    first: int | None = None

    def require_whole(self, name: str) -> None:
        """Raises NotSupportedError where there are other keys than those of the tokens of x: with a cache."""
        if self.queries != self.keys:
            raise NotSupportedError(f"attention {name!r} looks at whole texts: it does not support T != S, or a cache")


@dataclass(frozen=True)
class Identity:
    """Where a variant equals softmax attention; every row of the registry that has such a place says so, as data.

    Attributes:
        options: with which it is built.
        parameters: names (as in `named_parameters`) and the number that fills each; those not named stay as they begin.
        tolerance: of the largest difference, in float64; more than rounding where the place is a limit, and then `limit`
            says of what.
        limit: the limit in words; "" = exact.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, float] = field(default_factory=dict)
    tolerance: float = 1e-10
    limit: str = ""


class Variant(nn.Module):
    """Override the hooks that the variant needs; those left alone change nothing.

    One that has no `compute` runs on every backend. One that has is a mechanism: it computes its own attention, and keeps
    the rules it is given, or says in `supports` which it cannot keep. Its parameters belong to the block it is built in.

    Args:
        sizes: of the block.
    """

    name: ClassVar[str] = ""
    identity: ClassVar[Identity | None] = None
    trial: ClassVar[Mapping[str, Any]] = {}  # options with which texts of a few tokens show what it does
    laws: ClassVar[tuple[str, ...]] = ()  # what it keeps besides, by names of `tests/attention/test_rows.py`
    fits_static: ClassVar[bool] = False  # `restrict` looks at `CallSizes.first`: a cache may have a fixed size
    whole_texts: ClassVar[bool] = False  # a token is not projected for itself: no cache
    softcap: float | None = None  # see `AttentionRules.softcap`
    needs_logsumexp: ClassVar[bool] = False  # `finish` looks at the logsumexp

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        self.sizes = sizes

    def adopt(self, attention: nn.Module) -> None:
        """Parameters that begin as copies of the block's own take them; called once, where these are fresh."""

    def project(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """What becomes of (B, H, T, K) queries, (B, G, T, K) keys and values before a cache: or (N, H, K), (N, G, K)."""
        return query, key, value

    def restrict(
        self, mask: AttentionMask, bias: AttentionBias | None, sizes: CallSizes
    ) -> tuple[AttentionMask, AttentionBias | None]:
        """A mask that allows no more than the given one, and a bias."""
        return mask, bias

    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """Attention itself: (B, H, T, K), (B, G, S, K) or (N, H, K), (N, G, K) as for a backend."""
        raise NotImplementedError

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """What of such a call `compute` cannot do, in a word or a few; None where it can do all.

        By default it takes padded batches alone; `packed.by_sequence` makes one that takes packed ones too.
        """
        if rules.layout is not None:
            return "packed batches"
        return "the logsumexp" if rules.need_logsumexp else None

    def finish(self, result: AttentionResult, x: Tensor, context: Context) -> AttentionResult:
        """What becomes of the result (B, H, T, K), or (N, H, K), before the heads are joined; x is the block's (..., D)."""
        return result

    @property
    def is_mechanism(self) -> bool:
        """Whether it computes its own attention."""
        return type(self).compute is not Variant.compute
