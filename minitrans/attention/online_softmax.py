"""FlashAttention in plain PyTorch (Dao et al. 2022, algorithms 1 and 4; the loop order of FlashAttention-2, Dao 2023).

The bridge between the equation in `eager.py` and a kernel: exact attention that never holds the (T, S) probabilities.

**Forward.** Softmax needs the sum over a whole row before it can divide, and for safety the row's maximum before that.
Both can be kept while the row is read piece by piece. Say the keys seen so far gave scores s_1 .. s_n, and we hold

    m = max s_j        l = sum exp(s_j - m)        o = sum exp(s_j - m) v_j

so that o / l is the attention over those keys. A new tile of keys raises the maximum to m' = max(m, its scores). What
we hold was measured from m; measured from m' every term shrinks by the same factor alpha = exp(m - m'), hence

    l' = alpha l + sum exp(s_j - m')        o' = alpha o + sum exp(s_j - m') v_j        (sums over the new tile)

Nothing is ever revisited. After the last tile the output is o / l, and L = m + log l is the logsumexp of the row.

**Backward.** L is all that must be kept of the softmax: a probability is p_ij = exp(s_ij - L_i), so any tile can be had
again from its q and k. With the incoming gradient do, the derivative of softmax is

    dv_j = sum_i p_ij do_i        dp_ij = do_i · v_j        ds_ij = p_ij (dp_ij - D_i),   D_i = sum_j p_ij dp_ij

and D, which seems to need the whole row once more, is a product of two things at hand:
sum_j p_ij (do_i · v_j) = do_i · o_i. A gradient dL through the logsumexp adds p_ij dL_i to ds_ij, because
dL_i / ds_ij = p_ij; so it is subtracted from D. From ds: dq_i = scale sum_j ds_ij k_j, dk_j = scale sum_i ds_ij q_i,
and the gradient of an additive bias is ds itself. Where scores are capped, c · tanh(s / c), dq and dk have a factor more,
the slope 1 - tanh².

**Dropout** multiplies p by z (0, or 1 / (1 - dropout_p)) on its way to v, never on its way into l. The backward pass
draws each tile's z again from the tile's own seed; D = do · o stays true, because o was made with z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minitrans.attention.mask import AttentionMask
from minitrans.attention.packed import by_sequence
from minitrans.attention.recording import being_traced
from minitrans.attention.rules import AttentionResult, AttentionRules
from minitrans.errors import NotSupportedError


class OnlineSoftmaxAttention:
    """Exact attention tile by tile; a bias is still a dense (T, S) tensor.

    Args:
        query_tile: queries of a tile.
        key_tile: keys of a tile.
    """

    name = "online_softmax"

    def __init__(self, *, query_tile: int = 64, key_tile: int = 64) -> None:
        if query_tile < 1 or key_tile < 1:
            raise ValueError(f"a tile must hold at least 1 query and 1 key, got {query_tile} and {key_tile}")
        self.query_tile = query_tile
        self.key_tile = key_tile

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """Everything; but a trace would keep the number of tiles."""
        return "torch.jit.trace" if being_traced() else None

    def remark(self, query: Tensor) -> str | None:
        """Nothing."""
        return None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """See `rules.Backend`. The logsumexp of low-precision inputs is float32."""
        return by_sequence(self._rectangle, query, key, value, rules)

    def _rectangle(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """query (B, H, T, K), key and value (B, G, S, K) -> output (B, H, T, K), logsumexp (B, H, T)."""
        scale = rules.scale_for(query)
        bias = None if rules.bias is None else rules.bias.to_dense(query, key, scale)  # (B|1, H|1, T, S)
        group = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)  # (B, H, S, K)
        seed = int(torch.randint(2**62, ()).item()) if rules.dropout_p > 0 else 0
        tiles = _Tiles(
            rules.mask, query.shape[2], key.shape[2], self.query_tile, self.key_tile, scale, rules.softcap,
            rules.dropout_p, seed,
        )  # fmt: skip
        output, logsumexp = _OnlineSoftmax.apply(query, key, value, bias, tiles)  # type: ignore[no-untyped-call]
        return AttentionResult(output, logsumexp=logsumexp)


class _OnlineSoftmax(torch.autograd.Function):
    """Output and logsumexp of one rectangle; names as in the docstring above, _i of a query tile, _j of a key tile."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, tiles: _Tiles
    ) -> tuple[Tensor, Tensor]:
        """query (B, H, T, K), key and value (B, H, S, K), bias (B|1, H|1, T, S)."""
        output = torch.empty_like(query)
        logsumexp = query.new_empty(query.shape[:3], dtype=_wide(query.dtype))
        for rows in tiles.of_queries():
            q_i = query[:, :, rows].to(logsumexp.dtype)
            o_i = torch.zeros_like(q_i)  # (B, H, t, K)
            l_i = torch.zeros_like(q_i[..., :1])  # (B, H, t, 1)
            m_i = torch.full_like(l_i, -torch.inf)
            for columns in tiles.of_keys():
                allowed = tiles.allowed(rows, columns, query.device)
                if allowed is not None and not allowed.any():
                    continue
                s_ij = tiles.scores(q_i, key, bias, allowed, rows=rows, columns=columns)  # (B, H, t, s)
                m_new = torch.maximum(m_i, s_ij.amax(dim=-1, keepdim=True))
                m_safe = m_new.masked_fill(m_new == -torch.inf, 0.0)  # nothing seen yet: -inf - -inf would be NaN
                alpha = torch.exp(m_i - m_safe)
                p_ij = torch.exp(s_ij - m_safe)
                l_i = alpha * l_i + p_ij.sum(dim=-1, keepdim=True)
                o_i = alpha * o_i + tiles.dropout(p_ij, rows, columns) @ value[:, :, columns].to(p_ij.dtype)
                m_i = m_new
            output[:, :, rows] = (o_i / l_i.masked_fill(l_i == 0, 1.0)).to(output.dtype)  # an empty row: 0 / 1
            logsumexp[:, :, rows] = (m_i + torch.log(l_i)).squeeze(-1)  # an empty row: -inf
        ctx.save_for_backward(query, key, value, bias, output, logsumexp)
        ctx.tiles = tiles
        return output, logsumexp

    @staticmethod
    def backward(
        ctx: Any, grad_output: Tensor, grad_logsumexp: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None, None]:
        """Gradients of query, key, value, bias."""
        if torch.is_grad_enabled():  # create_graph=True: what follows would silently count as constant
            raise NotSupportedError("online_softmax has no second derivative; supported by: eager")
        query, key, value, bias, output, logsumexp = ctx.saved_tensors
        tiles: _Tiles = ctx.tiles
        wide = logsumexp.dtype
        dq, dk, dv = (torch.zeros_like(tensor, dtype=wide) for tensor in (query, key, value))
        dbias = torch.zeros_like(bias, dtype=wide) if ctx.needs_input_grad[3] else None
        d = (grad_output.to(wide) * output.to(wide)).sum(dim=-1) - grad_logsumexp  # (B, H, T)
        for columns in tiles.of_keys():
            k_j, v_j = key[:, :, columns].to(wide), value[:, :, columns].to(wide)
            for rows in tiles.of_queries():
                allowed = tiles.allowed(rows, columns, query.device)
                if allowed is not None and not allowed.any():
                    continue
                q_i, do_i = query[:, :, rows].to(wide), grad_output[:, :, rows].to(wide)
                s_ij = tiles.scores(q_i, key, bias, allowed, rows=rows, columns=columns)
                lse_i = logsumexp[:, :, rows, None]
                p_ij = torch.exp(s_ij - lse_i.masked_fill(lse_i == -torch.inf, 0.0))
                dv[:, :, columns] += tiles.dropout(p_ij, rows, columns).transpose(-2, -1) @ do_i
                dp_ij = tiles.dropout(do_i @ v_j.transpose(-2, -1), rows, columns)
                ds_ij = p_ij * (dp_ij - d[:, :, rows, None])
                if dbias is not None:
                    shape = (*dbias.shape[:2], *ds_ij.shape[2:])
                    dbias[:, :, rows, columns] = ds_ij.sum_to_size(shape)
                ds_ij = ds_ij * tiles.slope(q_i, k_j)
                dq[:, :, rows] += tiles.scale * (ds_ij @ k_j)
                dk[:, :, columns] += tiles.scale * (ds_ij.transpose(-2, -1) @ q_i)
        return (
            dq.to(query.dtype),
            dk.to(key.dtype),
            dv.to(value.dtype),
            None if dbias is None else dbias.to(bias.dtype),
            None,
        )


@dataclass(frozen=True)
class _Tiles:
    """How a (T, S) rectangle is cut, and what forward and backward must compute alike for each tile."""

    mask: AttentionMask
    query_length: int
    key_length: int
    query_tile: int
    key_tile: int
    scale: float
    softcap: float | None
    dropout_p: float
    seed: int

    def of_queries(self) -> list[slice]:
        """The query tiles."""
        return _cut(self.query_length, self.query_tile)

    def of_keys(self) -> list[slice]:
        """The key tiles."""
        return _cut(self.key_length, self.key_tile)

    def allowed(self, rows: slice, columns: slice, device: torch.device) -> Tensor | None:
        """(B|1, H|1, t|1, s) bool, or None."""
        return self.mask.to_dense(self.query_length, self.key_length, device, rows=rows, columns=columns)

    def scores(
        self, q_i: Tensor, key: Tensor, bias: Tensor | None, allowed: Tensor | None, *, rows: slice, columns: slice
    ) -> Tensor:
        """s_ij (B, H, t, s) = cap(scale q_i k_jᵀ) + bias, -inf where the mask forbids."""
        s_ij = self.scale * (q_i @ key[:, :, columns].to(q_i.dtype).transpose(-2, -1))
        if self.softcap is not None:
            s_ij = self.softcap * torch.tanh(s_ij / self.softcap)
        if bias is not None:
            s_ij = s_ij + bias[:, :, rows, columns]
        return s_ij if allowed is None else s_ij.masked_fill(~allowed, -torch.inf)

    def slope(self, q_i: Tensor, k_j: Tensor) -> Tensor | float:
        """The derivative of a score by what it was before the cap: 1 - tanh²."""
        if self.softcap is None:
            return 1.0
        return 1 - torch.tanh(self.scale * (q_i @ k_j.transpose(-2, -1)) / self.softcap) ** 2

    def dropout(self, p_ij: Tensor, rows: slice, columns: slice) -> Tensor:
        """p_ij times the tile's z: the same z whenever it is asked for."""
        if self.dropout_p == 0:
            return p_ij
        # the tile's first pair numbers it; a generator of its own leaves the global one alone
        tile = self.seed + rows.start * self.key_length + columns.start
        generator = torch.Generator(p_ij.device).manual_seed(tile)
        kept = torch.rand(p_ij.shape, generator=generator, dtype=torch.float32, device=p_ij.device) >= self.dropout_p
        return p_ij * kept / (1 - self.dropout_p)


def _cut(length: int, tile: int) -> list[slice]:
    return [slice(start, min(start + tile, length)) for start in range(0, length, tile)]


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type to accumulate in."""
    return torch.float32 if dtype.itemsize < torch.float32.itemsize else dtype
