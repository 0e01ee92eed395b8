"""Softmax attention over padded rectangles and over packed batches, and the probabilities of both."""

from __future__ import annotations

from typing import Literal, Unpack, overload

from torch import Tensor

from minitrans_kernels.attention import operators
from minitrans_kernels.attention.arguments import AttentionArgs, Options, check_weights, packed, padded


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, key_padding: Tensor | None = None, return_lse: Literal[False] = False,
    **options: Unpack[Options],
) -> Tensor: ...  # fmt: skip
@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, key_padding: Tensor | None = None, return_lse: Literal[True],
    **options: Unpack[Options],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    key_padding: Tensor | None = None,
    return_lse: bool = False,
    **options: Unpack[Options],
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(scale · q kᵀ + bias) v (Vaswani et al. 2017, equation 1), never holding the (T, S) scores.

    Query i stands at position i + S - T: the last query meets the last key. A query with nothing to attend to gives
    output 0, log-sum-exp -inf and no gradient.

    Args:
        q: (B, H, T, K), K in 16..256; any strides.
        k: (B, G, S, K); G divides H, each key head serves H / G query heads.
        v: as k.
        key_padding: (B, S) bool, True = may be attended to.
        return_lse: return the log-sum-exp of the scores too, (B, H, T), natural, float32 (float64 for float64 inputs).
        options: any of these, all by name.

            * causal: a query sees no key to its right; False.
            * window: (left, right), how far a query sees to each side; None = unbounded.
            * global_tokens: (B, S) bool: these attend to, and are attended from, everywhere; they lift window and blocks only.
            * block_layout: `BlockLayout`, which blocks of keys a block of queries sees. Other tiles are never visited.
            * bias: (B|1, H|1, T, S) added to the scores, float32 or the dtype of q; -inf = may not be attended to.
            * relative_bias: `RelativeBias`, T5's scores by bucket of distance.
            * alibi_slopes: (H); -slope · |distance| is added.
            * scale: factor of the scores; None = K ** -0.5.
            * softcap: c of c · tanh(score / c), before anything is added; None = none.
            * dropout_p: probability with which a probability is dropped, the others divided by 1 - dropout_p; 0.0.
            * dropout_seed: what decides which (see `dropout_mask`): an int, a (1) int64 tensor, or None = drawn from the
              generator of the device.

    Returns:
        Output, like q; with `return_lse` (output, log-sum-exp). Both have gradients, to q, k, v, bias, table and slopes.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, before anything is launched.
    """
    return _attend(padded(q, k, v, key_padding, options), return_lse)


@overload
def attention_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    *, return_lse: Literal[False] = False, **options: Unpack[Options],
) -> Tensor: ...  # fmt: skip
@overload
def attention_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    *, return_lse: Literal[True], **options: Unpack[Options],
) -> tuple[Tensor, Tensor]: ...  # fmt: skip
def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    return_lse: bool = False,
    **options: Unpack[Options],
) -> Tensor | tuple[Tensor, Tensor]:
    """`attention` over sequences laid end to end: each sees itself only, and positions count from its own beginning.

    Args:
        q: (N, H, K), the tokens of all sequences.
        k: (M, G, K).
        v: as k.
        cu_seqlens_q: (B + 1) int32: sequence b has the queries cu_seqlens_q[b] .. cu_seqlens_q[b + 1] - 1. Values are
            checked on the CPU only: elsewhere looking would wait for the device.
        cu_seqlens_k: likewise for keys. A sequence may be empty on either side.
        max_seqlen_q: the longest query sequence, or more.
        max_seqlen_k: the longest key sequence, or more.
        return_lse: return the log-sum-exp (N, H) too.
        options: as in `attention`, except that

            * global_tokens is (M);
            * block_layout is that of the longest lengths, by position within the sequence;
            * bias is (B|1, H|1, max_seqlen_q, max_seqlen_k), by position within the sequence.

            A dropout_seed drops what it drops in the padded batch of the same sequences.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, before anything is launched.
    """
    args = packed(q, k, v, (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k), options)
    return _attend(args, return_lse)


def attention_weights(
    q: Tensor, k: Tensor, lse: Tensor, rows: Tensor | None = None, *, key_padding: Tensor | None = None,
    **options: Unpack[Options],
) -> Tensor:  # fmt: skip
    """The exact probabilities of an `attention`, before dropout: exp(score - lse). Of all query rows, or of some.

    Args:
        q: (B, H, T, K), as the attention had it; likewise everything that has a name of `attention`.
        k: (B, G, S, K).
        lse: (B, H, T), what the attention returned.
        rows: (R) or (B, R) int64, query rows in 0 .. T - 1, in any order; None = all.
        key_padding: as the attention had it.
        options: as the attention had them; dropout changes nothing here.

    Returns:
        (B, H, T, S), or (B, H, R, S), in the dtype of lse; rows with nothing to attend to are zero. It has gradients.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, before anything is launched.
    """
    return _weights(padded(q, k, None, key_padding, _without_dropout(options)), lse, rows)


def attention_weights_varlen(
    q: Tensor, k: Tensor, lse: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    rows: Tensor | None = None, **options: Unpack[Options],
) -> Tensor:  # fmt: skip
    """`attention_weights` of an `attention_varlen`.

    Args:
        q: (N, H, K), as the attention had it; likewise everything that has a name of `attention_varlen`.
        k: (M, G, K).
        lse: (N, H), what the attention returned.
        cu_seqlens_q: as the attention had it.
        cu_seqlens_k: as the attention had it.
        max_seqlen_q: as the attention had it.
        max_seqlen_k: as the attention had it.
        rows: (R) int64, packed query tokens in 0 .. N - 1, of any sequences in any order; None = all.
            `cu_seqlens_q[:-1].long()` are the first tokens of sequences that are not empty.
        options: as the attention had them; dropout changes nothing here.

    Returns:
        (H, N, M), or (H, R, M), in the dtype of lse: zero between sequences. It has gradients.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, before anything is launched.
    """
    longest = (max_seqlen_q, max_seqlen_k)
    return _weights(packed(q, k, None, (cu_seqlens_q, cu_seqlens_k), longest, _without_dropout(options)), lse, rows)


def _attend(args: AttentionArgs, return_lse: bool) -> Tensor | tuple[Tensor, Tensor]:
    out, lse = operators.attend(args)
    return (out, lse) if return_lse else out


def _weights(args: AttentionArgs, lse: Tensor, rows: Tensor | None) -> Tensor:
    check_weights(args, lse, rows)
    return operators.weights(args, lse, rows)


def _without_dropout(options: Options) -> Options:
    return {**options, "dropout_p": 0.0}
