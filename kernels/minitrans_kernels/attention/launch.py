"""Attention on Triton: allocate, choose tiles, launch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from minitrans_kernels.attention.arguments import AttentionArgs, sequences_of
from minitrans_kernels.attention.attention_weights import attention_weights_kernel
from minitrans_kernels.attention.backward import delta_kernel, grad_key_value_kernel, grad_query_kernel
from minitrans_kernels.attention.bias_gradients import (
    bias_gradient_kernel,
    distance_gradient_kernel,
    distance_sum_kernel,
)
from minitrans_kernels.attention.block_index import block_index
from minitrans_kernels.attention.configs import (
    REGISTERS,
    Configuration,
    choose,
    in_one_pass,
    precision,
    register_limit,
    tuned,
)
from minitrans_kernels.attention.forward import forward_kernel
from minitrans_kernels.attention.kernel_args import StridedTensor, broadcast, kernel_args, strided
from minitrans_kernels.attention.short_backward import short_backward_kernel

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
_DELTA_BLOCK = 64
# programs that gradients of what is added to the scores aim at: a few for each of the processors of a large device
_PROGRAMS = 512
# query tiles of a sequence that are one summand when distances are shared out
_SEGMENT = 16


def forward(args: AttentionArgs) -> tuple[Tensor, Tensor]:
    """Output, like the query, and log-sum-exp: (B, H, T) float32, or packed (N, H)."""
    out = torch.empty_like(args.query)
    lse = torch.empty(args.query.shape[:-1], dtype=torch.float32, device=args.query.device)
    with device_of(args):
        call = kernel_args(args)

        def run(tile: Configuration) -> None:
            forward_kernel[(_query_tiles(args, tile.block_m) * args.heads,)](
                call,
                strided(out, args.packed),
                strided(lse, args.packed),
                block_index(args, tile.block_m, tile.block_n, by_key=False),
                **_options(args, tile),
            )

        run(tuned(args, "forward", run))
    return out, lse


def backward(
    args: AttentionArgs,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
    wants: tuple[bool, bool, bool, bool, bool],
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
    grad_query = grad_key = grad_value = grad_bias = grad_distances = None
    with device_of(args):
        launches = Backward(args, out, lse, grad_out, grad_lse)
        if all(wants[:3]) and in_one_pass(args):
            grad_query, grad_key, grad_value = launches.in_one_pass()
        elif wants[0]:
            grad_query = launches.grad_query()
        else:
            launches.fill_delta()
        if grad_key is None and (wants[1] or wants[2]):
            grad_key, grad_value = launches.grad_key_value()
        if wants[3]:
            grad_bias = launches.grad_bias()
        if wants[4]:
            grad_distances = launches.grad_distance_bias()
    return grad_query, grad_key if wants[1] else None, grad_value if wants[2] else None, grad_bias, grad_distances


class Backward:
    """The launches of a backward pass, on the current device.

    Attributes:
        delta: like lse, rowsum(grad_out ∘ out) minus grad_lse; filled by `in_one_pass`, `grad_query` or `fill_delta`, the
            first of which must run before the others.
    """

    def __init__(
        self, args: AttentionArgs, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None
    ) -> None:
        self.args = args
        self.delta = torch.empty(lse.shape, dtype=torch.float32, device=lse.device)
        self._call = kernel_args(args)
        self._out, self._lse, self._grad_out, self._delta = map(self._strided, (out, lse, grad_out, self.delta))
        self._grad_lse = None if grad_lse is None else self._strided(grad_lse)

    def _strided(self, tensor: Tensor) -> StridedTensor:
        return strided(tensor, self.args.packed)

    def fill_delta(self) -> None:
        """For gradients that need delta without that of the query."""
        args = self.args
        tokens = args.query.shape[0] if args.packed else args.max_seqlen_q
        sequences = 1 if args.packed else args.batch
        delta_kernel[(triton.cdiv(tokens, _DELTA_BLOCK) * sequences * args.heads,)](
            self._call,
            self._out,
            self._grad_out,
            self._grad_lse,
            self._delta,
            tokens,
            block=_DELTA_BLOCK,
            width=_width(args),
            enable_fp_fusion=True,
        )

    def grad_query(self) -> Tensor:
        """The gradient of the query; fills delta."""
        args, gradient = self.args, torch.empty_like(self.args.query)

        def run(tile: Configuration) -> None:
            grad_query_kernel[(_query_tiles(args, tile.block_m) * args.heads,)](
                self._call,
                self._out,
                self._lse,
                self._grad_out,
                self._grad_lse,
                self._delta,
                self._strided(gradient),
                block_index(args, tile.block_m, tile.block_n, by_key=False),
                **_options(args, tile),
            )

        run(tuned(args, "grad_query", run))
        return gradient

    def grad_key_value(self) -> tuple[Tensor, Tensor]:
        """The gradients of key and value."""
        args, grad_key, grad_value = self.args, torch.empty_like(self.args.key), torch.empty_like(self.args.value)

        def run(tile: Configuration) -> None:
            grad_key_value_kernel[(_key_tiles(args, tile.block_n) * args.key_heads,)](
                self._call,
                self._lse,
                self._grad_out,
                self._delta,
                self._strided(grad_key),
                self._strided(grad_value),
                block_index(args, tile.block_n, tile.block_m, by_key=True),
                **_options(args, tile),
            )

        run(tuned(args, "grad_key_value", run))
        return grad_key, grad_value

    def in_one_pass(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of query, key and value of a call that `serves_short`; fills delta."""
        args = self.args
        grads = [torch.empty_like(tensor) for tensor in (args.query, args.key, args.value)]
        tile = choose(args, "short_backward")
        programs = (args.batch + args.packed) * args.heads
        scratch = None
        if args.max_seqlen_k > tile.block_n:
            elements = programs * triton.cdiv(args.max_seqlen_q, tile.block_m) * tile.block_m * _width(args)
            scratch = torch.empty(elements, dtype=torch.float32, device=args.query.device)
        short_backward_kernel[(programs,)](
            self._call,
            self._out,
            self._lse,
            self._grad_out,
            self._grad_lse,
            self._delta,
            *map(self._strided, grads),
            scratch,
            **_options(args, tile) | {"maxnreg": REGISTERS},
        )
        return grads[0], grads[1], grads[2]

    def grad_bias(self) -> Tensor:
        """The gradient of the bias, in its shape and dtype."""
        args, bias = self.args, self.args.bias
        assert bias is not None
        gradient = torch.empty_like(bias)
        if gradient.numel() == 0:
            return gradient
        options = self._options_of_sums()
        block = options["block"]
        owners = bias.shape[0] * bias.shape[1]
        tiles = triton.cdiv(args.max_seqlen_q, block) * triton.cdiv(args.max_seqlen_k, block) * owners
        share, parts = _shares(args.batch * args.heads // owners, tiles)
        partials = gradient[None]
        if parts > 1:
            partials = torch.empty(parts, *bias.shape, dtype=torch.float32, device=gradient.device)
        if _masked(args):  # the kernel leaves tiles out, and a loop with a branch is not pipelined
            options["num_stages"] = 1
        bias_gradient_kernel[(tiles * parts,)](
            self._call,
            broadcast(partials[0]),
            partials.stride(0),
            bias.shape[0],
            bias.shape[1],
            share,
            self._grad_out,
            self._lse,
            self._delta,
            **options,
        )
        return gradient if parts == 1 else gradient.copy_(partials.sum(0))

    def grad_distance_bias(self) -> Tensor:
        """(H, T + S - 1) float32."""
        args, options = self.args, self._options_of_sums()
        queries, keys, block = args.max_seqlen_q, args.max_seqlen_k, options["block"]
        lowest = -triton.cdiv(keys - 1, block)  # the band of distances from lowest * block on
        bands = (queries - 1) // block + 1 - lowest
        segments = triton.cdiv(queries, _SEGMENT * block)
        share, parts = _shares(args.batch * segments, bands * args.heads)
        device = args.query.device
        gradient = torch.empty(args.heads, queries + keys - 1, dtype=torch.float32, device=device)
        partials = torch.empty(parts, 2, args.heads, bands * block, dtype=torch.float32, device=device)
        distance_gradient_kernel[(bands * args.heads * parts,)](
            self._call,
            partials,
            lowest,
            bands,
            segments,
            share,
            self._grad_out,
            self._lse,
            self._delta,
            segment=_SEGMENT * block,
            **options,
        )
        distance_sum_kernel[(bands * args.heads,)](
            partials,
            gradient,
            parts,
            args.heads,
            bands,
            lowest,
            queries,
            keys,
            block=block,
            num_warps=1,
            enable_fp_fusion=True,
        )
        return gradient

    def _options_of_sums(self) -> dict[str, Any]:
        """Of the kernels that sum dS: square tiles, the head by `chunk` columns."""
        tile = choose(self.args, "bias_gradients")
        options = _options(self.args, tile)
        del options["block_m"], options["block_n"]
        chunk = min(tile.block_k, _width(self.args))
        return options | {"block": tile.block_m, "chunk": chunk, "maxnreg": REGISTERS}


def attention_weights(args: AttentionArgs, lse: Tensor, rows: Tensor | None) -> Tensor:
    """Float32 probabilities, as `AttentionArgs.weights_shape` says; a row that does not exist gives zeros."""
    allocate = torch.zeros if args.packed else torch.empty  # nothing is written between sequences
    out = allocate(args.weights_shape(rows), dtype=torch.float32, device=args.query.device)
    if out.numel() == 0:
        return out
    tile = choose(args, "attention_weights")
    chosen = sequences = None
    if rows is None:
        tiles = _query_tiles(args, tile.block_m) * args.heads
    else:
        chosen = StridedTensor(rows, rows.stride(0) if rows.dim() == 2 else 0, 0, rows.stride(-1), 0)
        if args.cu_seqlens_q is not None:  # each row may have keys of its own
            tile = tile._replace(block_m=16)
            sequences = sequences_of(rows, args.cu_seqlens_q)
            tiles = rows.shape[0] * args.heads
        else:
            tiles = triton.cdiv(rows.shape[-1], tile.block_m) * args.batch * args.heads
    batch, head, row, column = out.stride() if out.dim() == 4 else (0, *out.stride())
    with device_of(args):
        attention_weights_kernel[(tiles, triton.cdiv(args.max_seqlen_k, tile.block_n))](
            kernel_args(args),
            strided(lse, args.packed),
            chosen,
            sequences,
            out.shape[-2],
            StridedTensor(out, batch, head, row, column),
            **_options(args, tile) | {"maxnreg": REGISTERS},
        )
    return out


def device_of(args: AttentionArgs) -> AbstractContextManager[None]:
    """Makes the call's device the current one, on which Triton launches."""
    return torch.cuda.device(args.query.device) if args.query.is_cuda else nullcontext()


def _options(args: AttentionArgs, tile: Configuration) -> dict[str, Any]:
    return {
        "block_m": tile.block_m,
        "block_n": tile.block_n,
        "width": _width(args),
        "precision": precision(args),
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "maxnreg": register_limit(args),
        "enable_fp_fusion": True,
    }


def _width(args: AttentionArgs) -> int:
    """Columns of a tile: the head width, or the next power of two."""
    return max(16, 1 << (args.width - 1).bit_length())


def _query_tiles(args: AttentionArgs, block: int) -> int:
    """Tiles of all sequences; in a packed batch as many as there can be, one more for tokens of no sequence."""
    return _tiles(args, args.query.shape[0], args.max_seqlen_q, block)


def _key_tiles(args: AttentionArgs, block: int) -> int:
    return _tiles(args, args.key.shape[0], args.max_seqlen_k, block)


def _tiles(args: AttentionArgs, tokens: int, longest: int, block: int) -> int:
    return tokens // block + args.batch + 1 if args.packed else args.batch * -(-longest // block)


def _masked(args: AttentionArgs) -> bool:
    """Whether there are pairs of a query and a key that do not meet, padding included."""
    limits = (args.key_padding, args.left, args.right, args.blocks)
    return args.packed or args.causal or any(limit is not None for limit in limits)


def _shares(summands: int, tiles: int) -> tuple[int, int]:
    """(summands a program, programs a tile)."""
    parts = min(summands, max(1, _PROGRAMS // tiles))
    share = triton.cdiv(summands, parts)
    return share, triton.cdiv(summands, share)
