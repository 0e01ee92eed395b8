"""Which backend `backend="auto"` means for a call, and why."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minitrans.attention.recording import being_traced
from minitrans.attention.rules import AttentionRules


@dataclass(frozen=True)
class BackendChoice:
    """Which backend a call runs on, and why."""

    name: str
    reason: str


_WEIGHTS = BackendChoice("eager", "the probabilities were asked for, and eager computes them anyway")
_NOT_IN_SDPA = BackendChoice("eager", "torch's fused attention has no softcap and gives no logsumexp")
_ON_CPU = BackendChoice("sdpa", "torch's fused attention is the fastest exact one here")


def select_backend(rules: AttentionRules, query: Tensor, key: Tensor) -> BackendChoice:
    """The backend for a call under these rules."""
    if query.device.type == "cuda" and not being_traced():  # a trace would keep the sizes of a kernel's launch
        return _select_on_cuda(rules, query, key)
    if rules.need_weights:
        return _WEIGHTS
    return _ON_CPU if rules.softcap is None and not rules.need_logsumexp else _NOT_IN_SDPA


def _select_on_cuda(rules: AttentionRules, query: Tensor, key: Tensor) -> BackendChoice:
    """By what each would have to compute and store, not by the clock."""
    from minitrans_kernels.runtime import runs_on_triton

    from minitrans.attention.triton import WIDEST

    if rules.need_weights:
        return _WEIGHTS
    spared = _spared(rules, query, key)
    only_elsewhere = rules.softcap is not None or rules.need_logsumexp
    if only_elsewhere:
        spared = "our kernels have the softcap and give the logsumexp, torch's fused attention does not"
    if spared is None:
        return BackendChoice("sdpa", "torch's fused attention takes this in one kernel")
    if rules.mask.dense is not None or rules.mask.rule is not None:
        choice = BackendChoice("sdpa", "torch's fused attention reads a dense mask as it is")
    elif query.element_size() == 8 or query.shape[-1] > WIDEST:
        choice = BackendChoice("sdpa", f"our kernels are for float32 and below and for head widths up to {WIDEST}")
    elif not runs_on_triton(query):
        choice = BackendChoice("sdpa", "our kernels cannot run here: minitrans_kernels.available() says why")
    else:
        return BackendChoice("triton", spared)
    return _NOT_IN_SDPA if only_elsewhere else choice


def _spared(rules: AttentionRules, query: Tensor, key: Tensor) -> str | None:
    """What the call would cost torch's fused attention and not our kernels."""
    mask = rules.mask
    if rules.layout is not None:
        return "torch's fused attention would be called once per length of sequence, our kernels once"
    if mask.window is not None:
        return "torch's fused attention would compute every pair, our kernels only tiles inside the window"
    if mask.blocks is not None:
        return "torch's fused attention would compute every pair, our kernels only tiles with allowed blocks"
    if mask.key_padding is not None:
        return "torch's fused attention would compute the padding too, our kernels not what surrounds a text"
    if rules.bias is not None and torch.is_grad_enabled() and wants_gradient(rules, query, key):
        return "torch's fused attention would store a bias gradient for every sample, our kernels its sum"
    return None


def wants_gradient(rules: AttentionRules, *tensors: Tensor) -> bool:
    """Whether a gradient will be asked of this call."""
    parameters = () if rules.bias is None else vars(rules.bias).values()
    return any(isinstance(each, Tensor) and each.requires_grad for each in (*tensors, *parameters))
