"""What does not fit is refused before anything runs, naming the argument, what was given and what is expected."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from minitrans_kernels import (
    BlockLayout,
    RelativeBias,
    attention,
    attention_varlen,
    attention_weights,
    attention_weights_varlen,
)
from minitrans_kernels.attention import arguments, operators
from torch import Tensor

B, H, G, T, S, K = 2, 6, 3, 5, 7, 16
q, k = torch.randn(B, H, T, K), torch.randn(B, G, S, K)
packed_q, packed_k = torch.randn(T, H, K), torch.randn(S, G, K)
starts_q, starts_k = torch.tensor([0, 2, 5], dtype=torch.int32), torch.tensor([0, 3, 7], dtype=torch.int32)
lse = torch.zeros(B, H, T)
rows = torch.tensor([0, 4])
padding = torch.ones(B, S, dtype=torch.bool)


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch):
    def fail(*given: Any) -> Any:
        raise AssertionError("it ran")

    monkeypatch.setattr(operators, "attend", fail)
    monkeypatch.setattr(operators, "weights", fail)


def meta(tensor: Tensor) -> Tensor:
    return tensor.to("meta")


# (the call, the error, the beginning of the message)
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: attention([1.0], k, k), TypeError, "q must be a tensor, got list"),
    (lambda: attention(q, None, k), TypeError, "k must be a tensor, got NoneType"),
    (lambda: attention(q[0], k, k), ValueError, "q must be (B, H, T, K), got shape (6, 5, 16)"),
    (lambda: attention(q, k, k[0]), ValueError, "v must be (B, G, S, K) with B=2, G=3, S=7, K=16, got shape (3, 7, 16)"),
    (lambda: attention(q.long(), k, k), TypeError, "q must be torch.float32 or torch.bfloat16 or torch.float16 or torch.float64, got torch.int64"),
    (
        lambda: attention(q.half(), k, k), TypeError,
        "k must be torch.float16, got torch.float32",
    ),
    (lambda: attention(q, k, meta(k)), ValueError, "v is on meta, q is on cpu; they must be on one device"),
    (lambda: attention(q, k, k[:, :, :3]), ValueError, "v must be (B, G, S, K) with B=2, G=3, S=7, K=16, got shape (2, 3, 3, 16)"),
    (lambda: attention(q, k[..., :8], k), ValueError, "k must be (B, G, S, K) with B=2, K=16, got shape (2, 3, 7, 8)"),
    (lambda: attention(q[..., :8], k[..., :8], k[..., :8]), ValueError, "the head width of q must be in 16..256, got 8"),
    (
        lambda: attention(torch.randn(1, 1, 2, 257), torch.randn(1, 1, 2, 257), torch.randn(1, 1, 2, 257)), ValueError,
        "the head width of q must be in 16..256, got 257",
    ),
    (lambda: attention(q[:, :4], k, k), ValueError, "the heads of k must divide those of q, got 3 and 4"),
    (lambda: attention(q, k[:, :0], k[:, :0]), ValueError, "the heads of k must divide those of q, got 0 and 6"),
    (lambda: attention(q[:1], k, k), ValueError, "k must be (B, G, S, K) with B=1, K=16, got shape (2, 3, 7, 16)"),
    (
        lambda: attention(q, k, k, key_padding=padding.long()), TypeError,
        "key_padding must be torch.bool, got torch.int64; write mask.bool()",
    ),
    (
        lambda: attention(q, k, k, key_padding=padding[:, :5]), ValueError,
        "key_padding must be (B, S) with B=2, S=7, got shape (2, 5)",
    ),
    (lambda: attention(q, k, k, key_padding=meta(padding)), ValueError, "key_padding is on meta, q is on cpu"),
    (
        lambda: attention(q, k, k, global_tokens=padding[0]), ValueError,
        "global_tokens must be (B, S) with B=2, S=7, got shape (7,)",
    ),
    (lambda: attention(q, k, k, global_tokens=padding.float()), TypeError, "global_tokens must be torch.bool, got torch.float32; write mask.bool()"),
    (lambda: attention(q, k, k, causal=1), TypeError, "causal must be a bool, got int"),
    (lambda: attention(q, k, k, window=4), TypeError, "window must be (left, right), two ints or None for unbounded, got 4"),
    (lambda: attention(q, k, k, window=(1, 2, 3)), TypeError, "window must be (left, right)"),
    (lambda: attention(q, k, k, window=(1.0, 2)), TypeError, "window must be (left, right)"),
    (lambda: attention(q, k, k, window=(-1, 2)), ValueError, "window must hold distances of at least 0, got (-1, 2)"),
    (lambda: attention(q, k, k, block_layout=4), TypeError, "block_layout must be BlockLayout(allowed, size), got int"),
    (
        lambda: attention(q, k, k, block_layout=BlockLayout(torch.ones(1, 3, 4, dtype=torch.bool), 0)), ValueError,
        "block_layout.size must be at least 1, got 0",
    ),
    (
        lambda: attention(q, k, k, block_layout=BlockLayout(torch.ones(1, 3, 4), 2)), TypeError,
        "block_layout.allowed must be torch.bool, got torch.float32",
    ),
    (
        lambda: attention(q, k, k, block_layout=BlockLayout(torch.ones(2, 3, 4, dtype=torch.bool), 2)), ValueError,
        "block_layout.allowed must be (B|1, H|1, T / size, S / size) with B=2, H=6, T=3, S=4, got shape (1, 2, 3, 4)",
    ),
    (
        lambda: attention(q, k, k, bias=torch.ones(1, 1, T, S, dtype=torch.bool)), TypeError,
        "bias must be torch.float32 or torch.float32, got torch.bool; a bool mask is no bias",
    ),
    (
        lambda: attention(q.half(), k.half(), k.half(), bias=torch.ones(1, 1, T, S).double()), TypeError,
        "bias must be torch.float16 or torch.float32, got torch.float64",
    ),
    (
        lambda: attention(q, k, k, bias=torch.ones(B, 2, T, S)), ValueError,
        "bias must be (B|1, H|1, T, S) with B=2, H=6, T=5, S=7, got shape (2, 2, 5, 7)",
    ),
    (lambda: attention(q, k, k, bias=torch.ones(B, H, 1, S)), ValueError, "bias must be (B|1, H|1, T, S)"),
    (lambda: attention(q, k, k, bias=torch.ones(T, S)), ValueError, "bias must be (B|1, H|1, T, S)"),
    (
        lambda: attention(q, k, k, relative_bias=torch.ones(8, H)), TypeError,
        "relative_bias must be RelativeBias(table, bidirectional, max_distance), got Tensor",
    ),
    (
        lambda: attention(q, k, k, relative_bias=RelativeBias(torch.ones(8, 5))), ValueError,
        "relative_bias.table must be (buckets, H) with H=6, got shape (8, 5)",
    ),
    (
        lambda: attention(q, k, k, relative_bias=RelativeBias(torch.ones(8, H).long())), TypeError,
        "relative_bias.table must be torch.float32 or torch.bfloat16 or torch.float16 or torch.float64, got torch.int64",
    ),
    (
        lambda: attention(q, k, k, relative_bias=RelativeBias(torch.ones(7, H))), ValueError,
        "relative_bias.table must have an even number of at least 4 buckets, got 7",
    ),
    (
        lambda: attention(q, k, k, relative_bias=RelativeBias(torch.ones(1, H), False)), ValueError,
        "relative_bias.table must have at least 2 buckets, got 1",
    ),
    (
        lambda: attention(q, k, k, relative_bias=RelativeBias(torch.ones(8, H), False, 4)), ValueError,
        "relative_bias.max_distance must be above 4, the distances that have a bucket each, got 4",
    ),
    (
        lambda: attention(q, k, k, alibi_slopes=torch.ones(5)), ValueError,
        "alibi_slopes must be (H) with H=6, got shape (5,)",
    ),
    (lambda: attention(q, k, k, alibi_slopes=torch.ones(H).int()), TypeError, "alibi_slopes must be torch.float32 or"),
    (lambda: attention(q, k, k, scale=torch.tensor(1.0)), TypeError, "scale must be a number, got Tensor"),
    (lambda: attention(q, k, k, scale=float("nan")), ValueError, "scale must be finite, got nan"),
    (lambda: attention(q, k, k, softcap=0.0), ValueError, "softcap must be above 0, got 0.0; None is no softcap"),
    (lambda: attention(q, k, k, softcap=True), TypeError, "softcap must be a number, got bool"),
    (lambda: attention(q, k, k, dropout_p=1.0), ValueError, "dropout_p must be in [0, 1), got 1.0"),
    (lambda: attention(q, k, k, dropout_p=-0.1), ValueError, "dropout_p must be in [0, 1), got -0.1"),
    (lambda: attention(q, k, k, dropout_p=0.1, dropout_seed=1.5), TypeError, "the dropout seed must be an int or an int64 tensor"),
    (
        lambda: attention(q, k, k, dropout_p=0.1, dropout_seed=torch.tensor([1, 2])), ValueError,
        "the dropout seed must be one number, got a tensor of shape (2,)",
    ),
    (
        lambda: attention(q, k, k, dropout_p=0.1, dropout_seed=torch.tensor([1], device="meta")), ValueError,
        "dropout_seed is on meta, q is on cpu",
    ),
    (
        lambda: attention_varlen(q, packed_k, packed_k, starts_q, starts_k, 3, 4), ValueError,
        "q must be (N, H, K), got shape (2, 6, 5, 16)",
    ),
    (
        lambda: attention_varlen(packed_q, packed_k, packed_k, starts_q.long(), starts_k, 3, 4), TypeError,
        "cu_seqlens_q must be torch.int32, got torch.int64",
    ),
    (
        lambda: attention_varlen(packed_q, packed_k, packed_k, starts_q, starts_k[:0], 3, 4), ValueError,
        "cu_seqlens_q and cu_seqlens_k must have the same length, at least 1, got 3 and 0",
    ),
    (
        lambda: attention_varlen(packed_q, packed_k, packed_k, [0, 2, 5], starts_k, 3, 4), TypeError,
        "cu_seqlens_q must be a tensor, got list",
    ),
    (
        lambda: attention_varlen(packed_q, packed_k, packed_k, starts_q, starts_k[:2], 3, 4), ValueError,
        "cu_seqlens_q and cu_seqlens_k must have the same length, at least 1, got 3 and 2",
    ),
    (
        lambda: attention_varlen(packed_q, packed_k, packed_k, starts_q, starts_k, 3.0, 4), ValueError,
        "max_seqlen_q must be an int, the longest length or more, got 3.0 for 5 tokens",
    ),
    (
        lambda: attention_varlen(packed_q, packed_k, packed_k, starts_q, starts_k, 3, 0), ValueError,
        "max_seqlen_k must be an int, the longest length or more, got 0 for 7 tokens",
    ),
    (
        lambda: attention_varlen(packed_q, packed_k, packed_k, starts_q, starts_k, 3, 4, global_tokens=padding), ValueError,
        "global_tokens must be (M) with M=7, got shape (2, 7)",
    ),
    (
        lambda: attention_varlen(packed_q, packed_k, packed_k, starts_q, starts_k, 3, 4, bias=torch.ones(1, H, T, S)), ValueError,
        "bias must be (B|1, H|1, T, S) with B=2, H=6, T=3, S=4, got shape (1, 6, 5, 7)",
    ),
    (
        lambda: attention_varlen(packed_q, packed_k, packed_k, starts_q, starts_k, 3, 4, key_padding=padding), TypeError,
        "unexpected keyword argument 'key_padding', expected causal, window,",
    ),
    (
        lambda: attention_weights(q, k, lse[:, :, :3], rows), ValueError,
        "lse, as the attention returned it, must be (B, H, T) with B=2, H=6, T=5, got shape (2, 6, 3)",
    ),
    (
        lambda: attention_weights(q.bfloat16(), k.bfloat16(), lse.bfloat16(), rows), TypeError,
        "lse, as the attention returned it, must be torch.float32, got torch.bfloat16",
    ),
    (lambda: attention_weights(q, k, lse, [0, 4]), TypeError, "rows must be a tensor, got list"),
    (lambda: attention_weights(q, k, lse, rows.int()), TypeError, "rows must be torch.int64, got torch.int32"),
    (
        lambda: attention_weights(q, k, lse, rows.expand(3, 2)), ValueError,
        "rows must be (B, R) with B=2, got shape (3, 2)",
    ),
    (lambda: attention_weights(q, k, lse, meta(rows)), ValueError, "rows is on meta, q is on cpu"),
    (
        lambda: attention_weights_varlen(packed_q, packed_k, lse, starts_q, starts_k, 3, 4), ValueError,
        "lse, as the attention returned it, must be (N, H) with N=5, H=6, got shape (2, 6, 5)",
    ),
    (
        lambda: attention_weights_varlen(packed_q, packed_k, lse[0].T, starts_q, starts_k, 3, 4, rows[None]), ValueError,
        "rows must be (R), got shape (1, 2)",
    ),
    (
        lambda: attention_weights_varlen(packed_q, packed_k, lse[0].T, starts_q, starts_k, 3, 0), ValueError,
        "max_seqlen_k must be an int, the longest length or more, got 0 for 7 tokens",
    ),
    (
        lambda: attention_weights_varlen(packed_q, packed_k, lse[0].T, starts_q, starts_k, 3, 4, key_padding=padding), TypeError,
        "unexpected keyword argument 'key_padding', expected causal, window,",
    ),
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(WRONG)))
def test_message(index: int):
    call, error, message = WRONG[index]
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_float64_is_not_for_triton(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arguments, "runs_on_triton", lambda tensor: True)
    with pytest.raises(
        TypeError, match="q is float64 on cpu, where Triton kernels compute float32, bfloat16 or float16"
    ):
        attention(q.double(), k.double(), k.double())


def test_every_check_is_tried():
    raises = {
        node.lineno for node in ast.walk(ast.parse(Path(arguments.__file__).read_text())) if isinstance(node, ast.Raise)
    }
    reached = set()
    for call, error, _ in WRONG:
        with pytest.raises(error) as info:
            call()
        reached |= {entry.lineno + 1 for entry in info.traceback if str(entry.path) == arguments.__file__}
    assert len(raises - reached) == 4, (
        "but that of float64 on Triton, above, and three of values, tried where they are run"
    )
