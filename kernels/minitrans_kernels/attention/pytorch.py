"""Attention in plain PyTorch: where Triton cannot run, and wherever a second derivative is asked for.

Low precision is computed in float32. `forward` and `rows` are differentiable any number of times; `backward` is the
first derivative in closed form, from the log-sum-exp as the kernels do it (see kernels/README.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans_kernels.attention.problem import Problem, sequences_of
from minitrans_kernels.dropout import dropout_mask

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
Wants = tuple[bool, bool, bool, bool, bool]


def forward(problem: Problem) -> tuple[Tensor, Tensor]:
    """Output, like the query, and log-sum-exp (B, H, T), or packed (N, H)."""
    if _nothing(problem):
        return torch.zeros_like(problem.query), _no_keys(problem)
    with _autocast_off(problem):
        scores = _scores(problem, _padded(problem.query, problem, keys=False))[0]
        empty = (scores == -torch.inf).all(dim=-1, keepdim=True)
        # an empty row is computed from zeros and then cleared: -inf - -inf would be NaN, also backward
        scores = scores.masked_fill(empty, 0.0)
        weights = _kept(problem, torch.softmax(scores, dim=-1).masked_fill(empty, 0.0))
        lse = torch.logsumexp(scores, dim=-1).masked_fill(empty.squeeze(-1), -torch.inf)
        out = weights @ _per_query_head(problem.value, problem)
        return _packed(out, problem).to(problem.query.dtype), _packed(lse, problem)


def backward(
    problem: Problem, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None, wants: Wants
) -> Gradients:
    """Gradients of query, key, value, bias, diagonals; None where `wants`, in this order, does not want it.

    Args:
        problem: what was computed.
        out: what `forward` gave.
        lse: what `forward` gave.
        grad_out: like out.
        grad_lse: like lse; None = zero.
        wants: of the query, the key, the value, the bias, the diagonals.
    """
    inputs = (problem.query, problem.key, problem.value, problem.bias, problem.diagonals)
    if _nothing(problem):
        zeros = [torch.zeros_like(x) if x is not None and want else None for x, want in zip(inputs, wants, strict=True)]
        return zeros[0], zeros[1], zeros[2], zeros[3], zeros[4]
    with _autocast_off(problem):
        query, grad, lse = (_padded(tensor, problem, keys=False) for tensor in (problem.query, grad_out, lse))
        key, value = _per_query_head(problem.key, problem), _per_query_head(problem.value, problem)
        scores, slope = _scores(problem, query)
        probabilities = torch.exp(scores - lse.masked_fill(lse == -torch.inf, 0.0)[..., None])
        delta = (grad * _padded(out, problem, keys=False)).sum(dim=-1)  # (B, H, T)
        if grad_lse is not None:
            delta = delta - _padded(grad_lse, problem, keys=False)
        grad_scores = probabilities * (_kept(problem, grad @ value.transpose(-2, -1)) - delta[..., None])
        grad_products = problem.scale * (grad_scores if slope is None else grad_scores * slope)

        of_query = of_key = of_value = of_bias = of_diagonals = None
        if wants[0]:
            of_query = _packed(grad_products @ key, problem).to(problem.query.dtype)
        if wants[1]:
            of_key = _per_key_head(grad_products.transpose(-2, -1) @ query, problem).to(problem.key.dtype)
        if wants[2]:
            of_value = _per_key_head(_kept(problem, probabilities).transpose(-2, -1) @ grad, problem)
            of_value = of_value.to(problem.value.dtype)
        if problem.bias is not None and wants[3]:
            of_bias = grad_scores.sum_to_size(problem.bias.shape).to(problem.bias.dtype)
        if problem.diagonals is not None and wants[4]:
            of_diagonals = _diagonal_sums(grad_scores, problem).to(problem.diagonals.dtype)
    return of_query, of_key, of_value, of_bias, of_diagonals


def rows(problem: Problem, lse: Tensor, rows: Tensor) -> Tensor:
    """Probabilities before dropout of the query rows `rows`, as `Problem.shape_of_rows` says."""
    if _nothing(problem):
        return lse.new_zeros(problem.shape_of_rows(rows))
    with _autocast_off(problem):
        if problem.cu_seqlens_q is None:
            scores = _scores(problem, _row(_wide(problem.query), rows), rows)[0]
            lse = _row(lse[..., None], rows)
        else:  # all of them first: the sequences have different keys
            sequence = sequences_of(rows, problem.cu_seqlens_q)
            place = rows - problem.cu_seqlens_q[sequence]
            scores = _scores(problem, _padded(problem.query, problem, keys=False))[0][sequence, :, place]
            lse = lse[rows][..., None]
        return torch.exp(scores - lse.masked_fill(lse == -torch.inf, 0.0))


def _scores(problem: Problem, query: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """(B, H, T, S) scores, -inf where not allowed, and the derivative of the softcap where there is one.

    `query` (B, H, T, K) is all of them, or those of `rows`.
    """
    scores = problem.scale * (query @ _per_query_head(problem.key, problem).transpose(-2, -1))
    slope = None
    if problem.softcap is not None:
        squashed = torch.tanh(scores / problem.softcap)
        scores, slope = problem.softcap * squashed, 1 - squashed**2
    for term in (problem.bias, _along_diagonals(problem)):
        if term is not None:
            scores = scores + (term if rows is None else _row(term, rows))
    if rows is None:
        rows = torch.arange(problem.max_seqlen_q, device=query.device)
    allowed = _allowed(problem, rows if rows.dim() == 2 else rows[None])
    return (scores if allowed is None else scores.masked_fill(~allowed, -torch.inf)), slope


def _allowed(problem: Problem, i: Tensor) -> Tensor | None:
    """(B|1, H|1, R, S) bool for the query rows i (B|1, R), or None where everything may attend to everything."""
    offset: Tensor | int = problem.max_seqlen_k - problem.max_seqlen_q
    parts = []
    j = torch.arange(problem.max_seqlen_k, device=i.device)
    if problem.cu_seqlens_q is not None and problem.cu_seqlens_k is not None:
        queries, keys = problem.cu_seqlens_q.diff()[:, None], problem.cu_seqlens_k.diff()[:, None]  # (B, 1)
        offset = keys - queries
        parts.append(((i < queries)[:, :, None] & (j < keys)[:, None])[:, None])
    position = i + offset  # (B|1, R)
    ahead = j - position[:, None, :, None]  # (B|1, 1, R, S)
    near = []
    if problem.left is not None:
        near.append(ahead >= -problem.left)
    if problem.right is not None:
        near.append(ahead <= problem.right)
    if problem.blocks is not None:
        size = problem.block_size
        near.append(problem.blocks[:, i[:, :, None] // size, j // size].transpose(0, 1))
    if near:
        local = _all(near)
        if problem.global_tokens is not None:
            tokens = problem.global_tokens
            if problem.cu_seqlens_k is not None:
                tokens = _laid_out(tokens, problem.cu_seqlens_k, problem.max_seqlen_k)
            position = position.expand(tokens.shape[0], -1)
            of_query = tokens.gather(1, position.clamp(0, problem.max_seqlen_k - 1)) & (position >= 0)
            local = local | tokens[:, None, None] | of_query[:, None, :, None]
        parts.append(local)
    if problem.causal:
        parts.append(ahead <= 0)
    if problem.key_padding is not None:
        parts.append(problem.key_padding[:, None, None])
    return _all(parts) if parts else None


def _all(parts: list[Tensor]) -> Tensor:
    allowed = parts[0]
    for part in parts[1:]:
        allowed = allowed & part
    return allowed


def _along_diagonals(problem: Problem) -> Tensor | None:
    """(B|1, H, T, S): the diagonals as scores. A view: row i is the window of the T + S - 1 that begins at T - 1 - i."""
    if problem.diagonals is None:
        return None
    diagonals = problem.diagonals[None]
    shift = _shift(problem)
    if shift is not None:
        begin = problem.max_seqlen_q + problem.max_seqlen_k - 1
        places = torch.arange(begin, device=diagonals.device) - shift[:, None]  # (B, T + S - 1)
        real = (places >= 0) & (places < begin)
        diagonals = torch.where(real[:, None], problem.diagonals[:, places.clamp(0, begin - 1)].transpose(0, 1), 0.0)
    return diagonals.unfold(-1, problem.max_seqlen_k, 1).flip(-2)


def _diagonal_sums(grad_scores: Tensor, problem: Problem) -> Tensor:
    """(B, H, T, S) -> (H, T + S - 1): the transpose of `_along_diagonals`."""
    shift = _shift(problem)
    if shift is None:
        return _slant(grad_scores.sum(dim=0))
    sums = _slant(grad_scores)  # (B, H, T + S - 1)
    length = sums.shape[-1]
    places = torch.arange(length, device=sums.device) + shift[:, None]
    real = (places >= 0) & (places < length)
    places = places.clamp(0, length - 1)[:, None].expand_as(sums)
    return torch.where(real[:, None], sums.gather(-1, places), 0.0).sum(dim=0)


def _slant(scores: Tensor) -> Tensor:
    """(..., T, S) -> (..., T + S - 1), entry c the sum over j - i = c - (T - 1).

    Rows from the last to the first, each widened to T + S, read as rows of T + S - 1: each begins one place further right.
    """
    *outer, queries, keys = scores.shape
    flat = torch.nn.functional.pad(scores.flip(-2), (0, queries)).flatten(-2)
    return flat[..., :-queries].reshape(*outer, queries, queries + keys - 1).sum(dim=-2)


def _shift(problem: Problem) -> Tensor | None:
    """(B): how much further right a sequence meets its diagonals than one of the longest lengths would; None if none does."""
    if problem.cu_seqlens_q is None or problem.cu_seqlens_k is None:
        return None
    offset = problem.cu_seqlens_k.diff() - problem.cu_seqlens_q.diff()
    return offset - (problem.max_seqlen_k - problem.max_seqlen_q)


def _kept(problem: Problem, weights: Tensor) -> Tensor:
    """(B, H, T, S): zero where dropout drops, the rest made up for it."""
    if problem.dropout_seed is None:
        return weights
    kept = dropout_mask(tuple(weights.shape), problem.dropout_p, problem.dropout_seed)
    return weights * kept / (1 - problem.dropout_p)


def _row(tensor: Tensor, rows: Tensor) -> Tensor:
    """(B|1, H|1, T, x) -> (B|1, H|1, R, x)."""
    if rows.dim() == 1:
        return tensor[:, :, rows]
    batch = torch.arange(rows.shape[0], device=rows.device)[:, None]
    return tensor.expand(rows.shape[0], -1, -1, -1)[batch, :, rows].transpose(1, 2)


def _padded(tensor: Tensor, problem: Problem, *, keys: bool) -> Tensor:
    """Tokens as a padded batch (B, H|G, T|S, ...) in the type to compute in; (N, H|G, ...) in a packed one."""
    boundaries = problem.cu_seqlens_k if keys else problem.cu_seqlens_q
    if boundaries is not None:
        longest = problem.max_seqlen_k if keys else problem.max_seqlen_q
        tensor = _laid_out(tensor, boundaries, longest).transpose(1, 2)
    return _wide(tensor)


def _packed(padded: Tensor, problem: Problem, *, keys: bool = False) -> Tensor:
    """The transpose of `_padded`, whatever the dtype."""
    boundaries = problem.cu_seqlens_k if keys else problem.cu_seqlens_q
    if boundaries is None:
        return padded
    token = torch.arange((problem.key if keys else problem.query).shape[0], device=padded.device)
    sequence = sequences_of(token, boundaries)
    return padded.transpose(1, 2)[sequence, token - boundaries[sequence]]


def _laid_out(tokens: Tensor, boundaries: Tensor, longest: int) -> Tensor:
    """(N, ...) -> (B, longest, ...), zeros past the end of a sequence."""
    places = boundaries[:-1, None] + torch.arange(longest, device=tokens.device)
    places = torch.where(places < boundaries[1:, None], places, tokens.shape[0])
    return torch.cat([tokens, tokens.new_zeros(1, *tokens.shape[1:])])[places]


def _per_query_head(tensor: Tensor, problem: Problem) -> Tensor:
    """Keys or values as (B, H, S, K)."""
    return _padded(tensor, problem, keys=True).repeat_interleave(problem.heads // problem.key_heads, dim=1)


def _per_key_head(gradient: Tensor, problem: Problem) -> Tensor:
    """(B, H, S, K) -> the shape of the keys: the transpose of `_per_query_head`."""
    batch, heads, keys, width = gradient.shape
    grouped = gradient.reshape(batch, problem.key_heads, heads // problem.key_heads, keys, width)
    return _packed(grouped.sum(dim=2), problem, keys=True)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype.itemsize < torch.float32.itemsize else tensor


def _nothing(problem: Problem) -> bool:
    return problem.query.numel() == 0 or problem.key.numel() == 0


def _no_keys(problem: Problem) -> Tensor:
    dtype = torch.promote_types(problem.query.dtype, torch.float32)
    return problem.query.new_full(problem.query.shape[:-1], -torch.inf, dtype=dtype)


def _autocast_off(problem: Problem) -> torch.autocast:
    """Or autocast would round the float32 products in here to its own type."""
    return torch.autocast(problem.query.device.type, enabled=False)
