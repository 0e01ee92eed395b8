"""Softmax attention over padded rectangles and over packed batches, and the probabilities of chosen rows of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict, overload

from torch import Tensor

from minitrans_kernels.attention import operators
from minitrans_kernels.attention.arguments import Options, check_rows, packed, rectangles

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PackedOptions(TypedDict, total=False):
    """The keyword arguments of `attention_varlen` but `return_lse`, for type checkers."""

    causal: bool
    window: tuple[int | None, int | None] | None
    global_tokens: Tensor | None
    block_layout: tuple[Tensor, int] | None
    bias: Tensor | None
    relative_bias: tuple[Tensor, bool, int] | None
    alibi_slopes: Tensor | None
    scale: float | None
    softcap: float | None
    dropout_p: float
    dropout_seed: int | Tensor | None


class PaddedOptions(PackedOptions, total=False):
    """Those of `attention`."""

    key_padding: Tensor | None


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, return_lse: Literal[False] = False, **options: Unpack[PaddedOptions]
) -> Tensor: ...
@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, *, return_lse: Literal[True], **options: Unpack[PaddedOptions]
) -> tuple[Tensor, Tensor]: ...


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    key_padding: Tensor | None = None,
    causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    global_tokens: Tensor | None = None,
    block_layout: tuple[Tensor, int] | None = None,
    bias: Tensor | None = None,
    relative_bias: tuple[Tensor, bool, int] | None = None,
    alibi_slopes: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout_p: float = 0.0,
    dropout_seed: int | Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(scale · q kᵀ + bias) v (Vaswani et al. 2017, equation 1), never holding the (T, S) scores.

    Query i stands at position i + S - T: the last query meets the last key. A query with nothing to attend to gives
    output 0, log-sum-exp -inf and no gradient.

    Args:
        q: (B, H, T, K), K in 16..256; any strides.
        k: (B, G, S, K); G divides H, each key head serves H / G query heads.
        v: as k.
        key_padding: (B, S) bool, True = may be attended to.
        causal: a query sees no key to its right.
        window: (left, right), how far a query sees to each side; None = unbounded.
        global_tokens: (B, S) bool: these attend to, and are attended from, everywhere; they lift window and blocks only.
        block_layout: `BlockLayout`, which blocks of keys a block of queries sees.
        bias: (B|1, H|1, T, S) added to the scores, float32 or the dtype of q; -inf = may not be attended to.
        relative_bias: `RelativeBias`, T5's scores by bucket of distance.
        alibi_slopes: (H); -slope · |distance| is added.
        scale: factor of the scores; None = K ** -0.5.
        softcap: c of c · tanh(score / c), before anything is added; None = none.
        dropout_p: probability with which a probability is dropped, the others divided by 1 - dropout_p.
        dropout_seed: what decides which (see `dropout_mask`): an int, a (1) int64 tensor, or None = drawn from the
            generator of the device.
        return_lse: return the log-sum-exp of the scores too, (B, H, T), natural, float32 (float64 for float64 inputs).

    Returns:
        Output, like q; with `return_lse` (output, log-sum-exp). Both have gradients, to q, k, v, bias, table and slopes.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, before anything is launched.
    """
    options = Options(
        key_padding, causal, window, global_tokens, block_layout, bias, relative_bias, alibi_slopes, scale, softcap,
        dropout_p, dropout_seed,
    )  # fmt: skip
    out, lse = operators.attend(rectangles(q, k, v, options))
    return (out, lse) if return_lse else out


@overload
def attention_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    *, return_lse: Literal[False] = False, **options: Unpack[PackedOptions],
) -> Tensor: ...  # fmt: skip
@overload
def attention_varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    *, return_lse: Literal[True], **options: Unpack[PackedOptions],
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
    causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    global_tokens: Tensor | None = None,
    block_layout: tuple[Tensor, int] | None = None,
    bias: Tensor | None = None,
    relative_bias: tuple[Tensor, bool, int] | None = None,
    alibi_slopes: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout_p: float = 0.0,
    dropout_seed: int | Tensor | None = None,
    return_lse: bool = False,
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
        causal: as in `attention`.
        window: as in `attention`.
        global_tokens: (M) bool.
        block_layout: `BlockLayout` of the longest lengths, by position within the sequence.
        bias: (B|1, H|1, max_seqlen_q, max_seqlen_k), by position within the sequence.
        relative_bias: as in `attention`.
        alibi_slopes: as in `attention`.
        scale: as in `attention`.
        softcap: as in `attention`.
        dropout_p: as in `attention`.
        dropout_seed: as in `attention`; a seed drops what it drops in the padded batch of the same sequences.
        return_lse: return the log-sum-exp (N, H) too.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, before anything is launched.
    """
    options = Options(
        None, causal, window, global_tokens, block_layout, bias, relative_bias, alibi_slopes, scale, softcap,
        dropout_p, dropout_seed,
    )  # fmt: skip
    problem = packed(q, k, v, (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k), options)
    out, lse = operators.attend(problem)
    return (out, lse) if return_lse else out


def attention_rows(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    rows: Tensor,
    *,
    key_padding: Tensor | None = None,
    causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    global_tokens: Tensor | None = None,
    block_layout: tuple[Tensor, int] | None = None,
    bias: Tensor | None = None,
    relative_bias: tuple[Tensor, bool, int] | None = None,
    alibi_slopes: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The exact probabilities of some query rows of an `attention`, before dropout: exp(score - lse).

    Args:
        q: (B, H, T, K), as the attention had it; likewise everything that has a name of `attention`.
        k: (B, G, S, K).
        lse: (B, H, T), what the attention returned.
        rows: (R) or (B, R) int64, query rows in 0 .. T - 1.
        key_padding: as in `attention`.
        causal: as in `attention`.
        window: as in `attention`.
        global_tokens: as in `attention`.
        block_layout: as in `attention`.
        bias: as in `attention`.
        relative_bias: as in `attention`.
        alibi_slopes: as in `attention`.
        scale: as in `attention`.
        softcap: as in `attention`.

    Returns:
        (B, H, R, S) in the dtype of lse; rows with nothing to attend to are zero. It has gradients.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, before anything is launched.
    """
    options = Options(
        key_padding, causal, window, global_tokens, block_layout, bias, relative_bias, alibi_slopes, scale, softcap
    )
    problem = rectangles(q, k, k.detach() if isinstance(k, Tensor) else k, options)
    check_rows(rows, lse, problem)
    return operators.probabilities(problem, lse, rows)


def attention_rows_varlen(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    rows: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    causal: bool = False,
    window: tuple[int | None, int | None] | None = None,
    global_tokens: Tensor | None = None,
    block_layout: tuple[Tensor, int] | None = None,
    bias: Tensor | None = None,
    relative_bias: tuple[Tensor, bool, int] | None = None,
    alibi_slopes: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The exact probabilities of some query rows of an `attention_varlen`, before dropout: exp(score - lse).

    Args:
        q: (N, H, K), as the attention had it; likewise everything that has a name of `attention_varlen`.
        k: (M, G, K).
        lse: (N, H), what the attention returned.
        rows: (R) int64, packed query tokens in 0 .. N - 1, of any sequences in any order; `cu_seqlens_q[:-1].long()` are
            the first tokens of sequences that are not empty.
        cu_seqlens_q: as in `attention_varlen`.
        cu_seqlens_k: as in `attention_varlen`.
        max_seqlen_q: as in `attention_varlen`.
        max_seqlen_k: as in `attention_varlen`.
        causal: as in `attention`.
        window: as in `attention`.
        global_tokens: as in `attention_varlen`.
        block_layout: as in `attention_varlen`.
        bias: as in `attention_varlen`.
        relative_bias: as in `attention`.
        alibi_slopes: as in `attention`.
        scale: as in `attention`.
        softcap: as in `attention`.

    Returns:
        (R, H, max_seqlen_k) in the dtype of lse: a row's probabilities of the keys of its own sequence, zero past them;
        rows with nothing to attend to are zero. It has gradients.

    Raises:
        ValueError, TypeError: naming the argument that does not fit, before anything is launched.
    """
    options = Options(
        None, causal, window, global_tokens, block_layout, bias, relative_bias, alibi_slopes, scale, softcap
    )
    boundaries, longest = (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k)
    problem = packed(q, k, k.detach() if isinstance(k, Tensor) else k, boundaries, longest, options)
    check_rows(rows, lse, problem)
    return operators.probabilities(problem, lse, rows)
