"""Attention in plain PyTorch: where Triton cannot run, and wherever a second derivative is asked for.

Low precision is computed in float32, a packed batch as a padded one. `forward` and `attention_weights` are differentiable
any number of times; `backward` is the first derivative in closed form, from the log-sum-exp as the kernels do it (see
kernels/README.md).
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from minitrans_kernels.attention.arguments import AttentionArgs, sequences_of
from minitrans_kernels.dropout import dropout_mask

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
Wants = tuple[bool, bool, bool, bool, bool]


def forward(args: AttentionArgs) -> tuple[Tensor, Tensor]:
    """Output, like the query, and log-sum-exp (B, H, T), or packed (N, H)."""
    if args.empty:
        dtype = torch.promote_types(args.query.dtype, torch.float32)
        lse = args.query.new_full(args.query.shape[:-1], -torch.inf, dtype=dtype)
        return torch.zeros_like(args.query), lse
    with _autocast_off(args):
        scores = _scores(args)[0]
        empty = (scores == -torch.inf).all(dim=-1, keepdim=True)
        # an empty row is computed from zeros and then cleared: -inf - -inf would be NaN, also backward
        scores = scores.masked_fill(empty, 0.0)
        probabilities = _kept(args, torch.softmax(scores, dim=-1).masked_fill(empty, 0.0))
        lse = torch.logsumexp(scores, dim=-1).masked_fill(empty.squeeze(-1), -torch.inf)
        out = probabilities @ _per_query_head(args.value, args)
        out, lse = (_packed(tensor, args.cu_seqlens_q, args.query) for tensor in (out, lse))
        return out.to(args.query.dtype), lse


def backward(
    args: AttentionArgs, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None, wants: Wants
) -> Gradients:
    """Gradients of query, key, value, bias, distance bias; None where `wants`, in this order, does not want it.

    Args:
        args: what was computed.
        out: what `forward` gave.
        lse: what `forward` gave.
        grad_out: like out.
        grad_lse: like lse; None = zero.
        wants: of the query, the key, the value, the bias, the distance bias.
    """
    query = key = value = bias = distances = None
    if args.empty:
        query, key, value, bias, distances = (
            torch.zeros_like(x) if x is not None and want else None
            for x, want in zip(args.differentiable, wants, strict=True)
        )
        return query, key, value, bias, distances
    with _autocast_off(args):
        q, do, o, lse = (_queries(tensor, args) for tensor in (args.query, grad_out, out, lse))
        k, v = _per_query_head(args.key, args), _per_query_head(args.value, args)
        scores, slope = _scores(args)
        p = torch.exp(scores - lse.masked_fill(lse == -torch.inf, 0.0)[..., None])
        delta = (do * o).sum(dim=-1)  # (B, H, T)
        if grad_lse is not None:
            delta = delta - _queries(grad_lse, args)
        ds = p * (_kept(args, do @ v.mT) - delta[..., None])
        of_products = args.scale * (ds if slope is None else ds * slope)
        if wants[0]:
            query = _packed(of_products @ k, args.cu_seqlens_q, args.query)
        if wants[1]:
            key = _per_key_head(of_products.mT @ q, args)
        if wants[2]:
            value = _per_key_head(_kept(args, p).mT @ do, args)
        if args.bias is not None and wants[3]:
            bias = ds.sum_to_size(args.bias.shape)
        if args.distance_bias is not None and wants[4]:
            distances = _sums_by_distance(ds, args)
    return query, key, value, bias, distances


def attention_weights(args: AttentionArgs, lse: Tensor, rows: Tensor | None) -> Tensor:
    """Probabilities before dropout, as `AttentionArgs.weights_shape` says."""
    if args.empty:
        return lse.new_zeros(args.weights_shape(rows))
    with _autocast_off(args):
        if args.cu_seqlens_q is None or args.cu_seqlens_k is None:
            scores = _scores(args, rows)[0]
            lse = lse[..., None] if rows is None else _row(lse[..., None], rows)
            return torch.exp(scores - lse.masked_fill(lse == -torch.inf, 0.0))
        lse = _queries(lse, args)[..., None]
        padded = torch.exp(_scores(args)[0] - lse.masked_fill(lse == -torch.inf, 0.0))  # (B, H, T, S)
        rows = torch.arange(args.query.shape[0], device=lse.device) if rows is None else rows
        keys = torch.arange(args.key.shape[0], device=lse.device)
        of_row, of_key = sequences_of(rows, args.cu_seqlens_q)[:, None], sequences_of(keys, args.cu_seqlens_k)
        i, j = rows[:, None] - args.cu_seqlens_q[of_row], keys - args.cu_seqlens_k[of_key]
        pairs = padded[of_row, :, i, j]  # (R, M, H)
        return torch.where((of_row == of_key)[..., None], pairs, 0.0).permute(2, 0, 1)


def _scores(args: AttentionArgs, rows: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """(B, H, T, S) scores, or those of `rows`, -inf where not allowed; and the derivative of the softcap, if there is one."""
    query = _queries(args.query, args)
    query = query if rows is None else _row(query, rows)
    scores = args.scale * (query @ _per_query_head(args.key, args).mT)
    slope = None
    if args.softcap is not None:
        squashed = torch.tanh(scores / args.softcap)
        scores, slope = args.softcap * squashed, 1 - squashed**2
    if args.bias is not None:
        scores = scores + (args.bias if rows is None else _row(args.bias, rows))
    i = _every_row(args) if rows is None else (rows if rows.dim() == 2 else rows[None])
    distances = _distances(args, i)
    if args.distance_bias is not None:
        scores = scores + args.distance_bias[:, _diagonals(args, distances)].transpose(0, 1)
    allowed = _allowed(args, i, distances)
    return (scores if allowed is None else scores.masked_fill(~allowed, -torch.inf)), slope


def _every_row(args: AttentionArgs) -> Tensor:
    return torch.arange(args.max_seqlen_q, device=args.query.device)[None]


def _distances(args: AttentionArgs, i: Tensor) -> Tensor:
    """(B|1, R, S): key position minus query position, for the query rows i (B|1, R)."""
    offset: Tensor | int = args.max_seqlen_k - args.max_seqlen_q
    if args.cu_seqlens_q is not None and args.cu_seqlens_k is not None:
        offset = (args.cu_seqlens_k.diff() - args.cu_seqlens_q.diff())[:, None]
    return torch.arange(args.max_seqlen_k, device=i.device) - (i + offset)[..., None]


def _diagonals(args: AttentionArgs, distances: Tensor) -> Tensor:
    """Where distances stand in the distance bias; of pairs that are not there, somewhere."""
    return (distances + args.max_seqlen_k - 1).clamp(0, args.max_seqlen_q + args.max_seqlen_k - 2)


def _sums_by_distance(ds: Tensor, args: AttentionArgs) -> Tensor:
    """(B, H, T, S) -> (H, T + S - 1)."""
    places = _diagonals(args, _distances(args, _every_row(args)))
    ds = ds if len(places) > 1 else ds.sum(dim=0, keepdim=True)
    places = places.flatten().expand(args.heads, -1)
    sums = ds.new_zeros(args.heads, args.max_seqlen_q + args.max_seqlen_k - 1)
    return sums.scatter_add(1, places, ds.transpose(0, 1).flatten(1))


def _allowed(args: AttentionArgs, i: Tensor, distances: Tensor) -> Tensor | None:
    """(B|1, H|1, R, S) bool for the query rows i (B|1, R), or None where everything may attend to everything."""
    j, distances = torch.arange(args.max_seqlen_k, device=i.device), distances[:, None]
    every, near = [], []
    if args.cu_seqlens_q is not None and args.cu_seqlens_k is not None:
        queries, keys = args.cu_seqlens_q.diff()[:, None], args.cu_seqlens_k.diff()[:, None]  # (B, 1)
        every.append(((i < queries)[:, :, None] & (j < keys)[:, None])[:, None])
    if args.left is not None:
        near.append(distances >= -args.left)
    if args.right is not None:
        near.append(distances <= args.right)
    if args.blocks is not None:
        batch = torch.arange(args.blocks.shape[0], device=i.device)[:, None, None]
        near.append(args.blocks[batch, :, i[..., None] // args.block_size, j // args.block_size].movedim(-1, 1))
    if near:
        local = reduce(torch.logical_and, near)
        if args.global_tokens is not None:
            tokens = args.global_tokens
            if args.cu_seqlens_k is not None:
                tokens = _padded(tokens, args.cu_seqlens_k, args.max_seqlen_k)
            position = -distances[:, 0, :, 0].expand(tokens.shape[0], -1)  # what key 0 is away from a query
            by_query = tokens.gather(1, position.clamp(0, args.max_seqlen_k - 1)) & (position >= 0)
            local = local | tokens[:, None, None] | by_query[:, None, :, None]
        every.append(local)
    if args.causal:
        every.append(distances <= 0)
    if args.key_padding is not None:
        every.append(args.key_padding[:, None, None])
    return reduce(torch.logical_and, every) if every else None


def _kept(args: AttentionArgs, weights: Tensor) -> Tensor:
    """(B, H, T, S): zero where dropout drops, the rest made up for it."""
    if args.dropout_seed is None:
        return weights
    kept = dropout_mask(tuple(weights.shape), args.dropout_p, args.dropout_seed)
    return weights * kept / (1 - args.dropout_p)


def _row(tensor: Tensor, rows: Tensor) -> Tensor:
    """(B|1, H|1, T, x) -> (B|1, H|1, R, x)."""
    if rows.dim() == 1:
        return tensor[:, :, rows]
    batch = torch.arange(rows.shape[0], device=rows.device)[:, None]
    return tensor.expand(rows.shape[0], -1, -1, -1)[batch, :, rows].transpose(1, 2)


def _queries(tensor: Tensor, args: AttentionArgs) -> Tensor:
    """One vector or number a query as (B, H, T, ...), in the type to compute in."""
    if args.cu_seqlens_q is not None:
        tensor = _padded(tensor, args.cu_seqlens_q, args.max_seqlen_q).transpose(1, 2)
    return _wide(tensor)


def _per_query_head(tensor: Tensor, args: AttentionArgs) -> Tensor:
    """Keys or values as (B, H, S, K)."""
    if args.cu_seqlens_k is not None:
        tensor = _padded(tensor, args.cu_seqlens_k, args.max_seqlen_k).transpose(1, 2)
    return _wide(tensor).repeat_interleave(args.heads // args.key_heads, dim=1)


def _per_key_head(gradient: Tensor, args: AttentionArgs) -> Tensor:
    """(B, H, S, K) -> the shape of the keys: the transpose of `_per_query_head`."""
    batch, heads, keys, width = gradient.shape
    grouped = gradient.reshape(batch, args.key_heads, heads // args.key_heads, keys, width)
    return _packed(grouped.sum(dim=2), args.cu_seqlens_k, args.key)


def _padded(tokens: Tensor, cu_seqlens: Tensor, longest: int) -> Tensor:
    """(N, ...) -> (B, longest, ...), zeros past the end of a sequence."""
    places = cu_seqlens[:-1, None] + torch.arange(longest, device=tokens.device)
    places = torch.where(places < cu_seqlens[1:, None], places, tokens.shape[0])
    return torch.cat([tokens, tokens.new_zeros(1, *tokens.shape[1:])])[places]


def _packed(padded: Tensor, cu_seqlens: Tensor | None, like: Tensor) -> Tensor:
    """(B, H, T, ...) as the N tokens of `like`, (N, H, ...); as it is where there is no packed batch."""
    if cu_seqlens is None:
        return padded
    token = torch.arange(like.shape[0], device=padded.device)
    sequence = sequences_of(token, cu_seqlens)
    return padded.transpose(1, 2)[sequence, token - cu_seqlens[sequence]]


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype.itemsize < torch.float32.itemsize else tensor


def _autocast_off(args: AttentionArgs) -> torch.autocast:
    """Or autocast would round the float32 products in here to its own type."""
    return torch.autocast(args.query.device.type, enabled=False)
