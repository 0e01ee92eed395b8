"""Who computes attention in the benchmark, and which cases each of them serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from minitrans_kernels import attention, attention_varlen
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.attention_cases import MAX_DISTANCE, WINDOW, Case, Inputs
from benchmarks.runs import Prepared
from minitrans.attention.bias import RelativeBuckets

_MATH_ELEMENTS = 2**30  # scores that torch's math backend may hold, in each of several copies
_MASK_LENGTH = 8192  # longest (T, S) mask for the backends that want one
FLEX_LENGTHS = (512, 2048, 8192)


@dataclass(frozen=True)
class Provider:
    """One way to compute attention.

    Attributes:
        name: in results.
        refuses: why a case is not for it on this device; None = it is.
        prepare: from inputs and a dropout probability.
        compiles: whether the first call of a case compiles something.
        drops_like_dropout_mask: whether its dropout is that of `minitrans_kernels.dropout_mask`.
        ours: whether it calls our kernels.
        is_softmax: whether it must find what softmax attention does, and does its work.
        fault: what is wrong with one that is compared with nothing else; None = nothing.
    """

    name: str
    refuses: Callable[[Case, torch.device], str | None]
    prepare: Callable[[Inputs, float], Prepared]
    compiles: bool = False
    drops_like_dropout_mask: bool = False
    ours: bool = False
    is_softmax: bool = True
    fault: Callable[[], str | None] = lambda: None


def _serves_all(case: Case, device: torch.device) -> str | None:
    return None


def _ours(inputs: Inputs, dropout_p: float) -> Prepared:
    case, leaves = inputs.case, inputs.leaves
    options: dict[str, Any] = {"causal": case.kind == "causal", "key_padding": inputs.key_padding}
    if case.kind == "window":
        options["window"] = (WINDOW, WINDOW)
    if "bias" in leaves:
        options["bias"] = leaves["bias"]
    if "table" in leaves:
        options["relative_bias"] = (leaves["table"], True, MAX_DISTANCE)
    if dropout_p:
        options |= {"dropout_p": dropout_p, "dropout_seed": inputs.seed}
    run: Callable[..., Any] = partial(attention, leaves["query"], leaves["key"], leaves["value"], **options)
    return Prepared(run, leaves, inputs.grad_out)


def _only_padded(case: Case, device: torch.device) -> str | None:
    return None if case.kind == "padded" else "nothing to pack"


def _varlen(inputs: Inputs, dropout_p: float) -> Prepared:
    case, real = inputs.case, inputs.key_padding
    assert real is not None
    names = ("query", "key", "value")

    def pack(tensor: Tensor) -> Tensor:
        return tensor.detach().transpose(1, 2)[real].contiguous()  # (N, H, K)

    def padded(tensor: Tensor) -> Tensor:
        whole = tensor.new_zeros(case.batch, case.length, case.heads, case.width)
        whole[real] = tensor
        return whole.transpose(1, 2)

    leaves = {name: pack(inputs.leaves[name]).requires_grad_() for name in names}
    lengths = torch.tensor([0, *case.lengths])
    boundaries = lengths.cumsum(0).to(real.device, torch.int32)
    run: Callable[..., Any] = partial(
        attention_varlen, *leaves.values(), boundaries, boundaries, case.length, case.length
    )
    return Prepared(run, leaves, pack(inputs.grad_out), padded)


def _sdpa_refuses(backend: SDPBackend, case: Case, device: torch.device) -> str | None:
    masked = case.kind not in ("dense", "causal", "dropout")
    if backend is SDPBackend.FLASH_ATTENTION and masked:
        return "it takes no mask"
    if backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION) and device.type != "cuda":
        return "it needs CUDA"
    if backend is SDPBackend.FLASH_ATTENTION and device.type != "cuda" and case.kind == "dropout":
        return "it has no dropout on a CPU"
    if backend is SDPBackend.MATH and case.batch * case.heads * case.length**2 > _MATH_ELEMENTS:
        return "its scores would not fit"
    if case.kind == "window" and case.length > _MASK_LENGTH:
        return "its mask would not fit"
    return None


def _sdpa(backend: SDPBackend, inputs: Inputs, dropout_p: float) -> Prepared:
    case, leaves = inputs.case, inputs.leaves
    query, key, value = leaves["query"], leaves["key"], leaves["value"]
    mask = _mask(inputs)

    def forward() -> Tensor:
        added = leaves.get("bias", mask)
        if "table" in leaves:  # what models do: the table is spread over all pairs in each layer
            added = RelativeBuckets(leaves["table"], True, MAX_DISTANCE).to_dense(query, key, 1.0)
        with sdpa_kernel([backend]):
            return scaled_dot_product_attention(
                query, key, value, attn_mask=added, dropout_p=dropout_p, is_causal=case.kind == "causal"
            )

    return Prepared(forward, leaves, inputs.grad_out)


def _mask(inputs: Inputs) -> Tensor | None:
    """What `attn_mask` must be, bool, unless it is a bias."""
    case = inputs.case
    if inputs.key_padding is not None:
        return inputs.key_padding[:, None, None, :].expand(-1, 1, case.length, -1)
    device = inputs.grad_out.device
    if case.kind == "window":
        at = torch.arange(case.length, device=device)
        return ((at[:, None] - at).abs() <= WINDOW)[None, None]
    return None


def _flex_refuses(case: Case, device: torch.device) -> str | None:
    if device.type != "cuda":
        return "it has no gradient on a CPU"
    if case.kind == "dropout":
        return "it has no dropout"
    if case.priority and case.kind != "low_scores" and case.length not in FLEX_LENGTHS:
        return "left out: each of its cases is a long compilation"
    return None


def _flex(inputs: Inputs, dropout_p: float) -> Prepared:
    import torch._functorch.config
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch._dynamo.reset()  # each case is a program of its own; the earlier ones would only lengthen the search
    torch._functorch.config.donated_buffer = False  # the backward is timed alone, so the forward's tensors must last
    case, leaves, real = inputs.case, inputs.leaves, inputs.key_padding
    device = inputs.grad_out.device
    allowed: Callable[..., Tensor] | None = None
    if real is not None:
        allowed = lambda b, h, i, j: real[b, j]  # noqa: E731
    elif case.kind == "causal":
        allowed = lambda b, h, i, j: j <= i  # noqa: E731
    elif case.kind == "window":
        allowed = lambda b, h, i, j: (i - j).abs() <= WINDOW  # noqa: E731
    blocks = None
    if allowed is not None:
        batch = None if real is None else case.batch
        blocks = create_block_mask(allowed, batch, None, case.length, case.length, device=device)
    distances = torch.arange(1 - case.length, case.length, device=device)
    compiled: Callable[..., Any] = torch.compile(flex_attention, fullgraph=True, dynamic=False)

    def forward() -> Tensor:
        score: Callable[..., Tensor] | None = None
        if "bias" in leaves:
            bias = leaves["bias"]
            score = lambda s, b, h, i, j: s + bias[0, h, i, j]  # noqa: E731
        if "table" in leaves:
            table = leaves["table"]
            by_distance = table[RelativeBuckets(table, True, MAX_DISTANCE).buckets(distances)]  # (2 S - 1, H)
            score = lambda s, b, h, i, j: s + by_distance[j - i + case.length - 1, h]  # noqa: E731
        out: Tensor = compiled(leaves["query"], leaves["key"], leaves["value"], score_mod=score, block_mask=blocks)
        return out

    return Prepared(forward, leaves, inputs.grad_out)


def _plain_refuses(case: Case, device: torch.device) -> str | None:
    if device.type != "cuda" or find_spec("triton") is None:
        return "it needs CUDA and Triton"
    return None if case.kind in ("dense", "low_scores") else "it is dense only"


def _plain(inputs: Inputs, dropout_p: float) -> Prepared:
    from benchmarks.plain_triton import plain_attention

    leaves = inputs.leaves
    run = partial(plain_attention, leaves["query"], leaves["key"], leaves["value"])
    return Prepared(run, leaves, inputs.grad_out)


def _sdpa_provider(name: str, backend: SDPBackend) -> Provider:
    return Provider(f"sdpa {name}", partial(_sdpa_refuses, backend), partial(_sdpa, backend))


PROVIDERS = (
    Provider("minitrans", _serves_all, _ours, compiles=True, drops_like_dropout_mask=True, ours=True),
    Provider("minitrans varlen", _only_padded, _varlen, compiles=True, ours=True),
    _sdpa_provider("cudnn", SDPBackend.CUDNN_ATTENTION),
    _sdpa_provider("flash", SDPBackend.FLASH_ATTENTION),
    _sdpa_provider("efficient", SDPBackend.EFFICIENT_ATTENTION),
    _sdpa_provider("math", SDPBackend.MATH),
    Provider("flex", _flex_refuses, _flex, compiles=True),
    Provider("plain triton", _plain_refuses, _plain, compiles=True),
)
