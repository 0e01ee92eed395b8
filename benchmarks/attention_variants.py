"""Variants of attention as providers: between the projections of queries, keys and values and that of the output."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import cast

import torch
from torch import Tensor

from benchmarks.attention_cases import DROPOUT, MAX_DISTANCE, WINDOW, Case, Inputs
from benchmarks.attention_providers import Provider
from benchmarks.runs import Prepared
from minitrans.attention import AttentionBias, AttentionMask, AttentionRules, Context, DenseBias, RelativeBuckets
from minitrans.attention.specs import VariantSpec
from minitrans.errors import NotSupportedError
from minitrans.lab.bench import Bench
from minitrans.lab.gate import gate
from minitrans.lab.specs import Subject, read_subjects
from minitrans.layers.multi_head_attention import MultiHeadAttention, require_support

FULL = "full"  # the baseline of variants: softmax attention, on the backend that is chosen for the call


def variant_providers(texts: list[str]) -> list[Provider]:
    """Softmax attention, then each variant that is asked for by a row's name, JSON or the place of its class.

    Raises:
        ValueError, TypeError: for a text that says none.
    """
    return [_provider(subject) for subject in read_subjects([FULL, *texts])]


def _provider(subject: Subject) -> Provider:
    return Provider(
        subject.name, partial(_refuses, subject.spec), partial(_prepare, subject.spec), is_softmax=False,
        fault=_fault_of(subject),
    )  # fmt: skip


def _fault_of(subject: Subject) -> Callable[[], str | None]:
    """Asks the gate of the lab, once, what a variant does not keep of what it promises; softmax attention has no gate."""

    @cache
    def fault() -> str | None:
        found = {} if subject.spec == FULL else gate(cast("Bench", None), subject, 0)  # it looks at no model
        return cast("str | None", found.get("reason"))

    return fault


def _built(spec: VariantSpec, case: Case, device: torch.device | None = None) -> MultiHeadAttention:
    module = MultiHeadAttention(case.heads * case.width, case.heads).to(device, case.dtype)
    module.set_attention(spec, layer=1, longest=case.length)
    return module


def _mask(case: Case, real: Tensor | None) -> AttentionMask:
    window = (WINDOW, WINDOW) if case.kind == "window" else None
    return AttentionMask(key_padding=real, causal=case.kind == "causal", window=window)


def _refuses(spec: VariantSpec, case: Case, device: torch.device) -> str | None:
    if case.kind == "low_scores":
        return "numbers that are not finite are counted of kernels"
    try:
        module = _built(spec, case)
    except ValueError as error:
        return str(error)
    nothing = torch.empty(1, case.heads, 1, case.width, dtype=case.dtype)
    mask = _mask(case, torch.ones(1, 1, dtype=torch.bool) if case.kind == "padded" else None)
    bias = DenseBias(nothing[..., :1]) if case.kind in ("bias", "t5") else None
    rules = AttentionRules(mask, bias, dropout_p=DROPOUT if case.kind == "dropout" else 0.0)
    try:
        for mechanism in (variant for variant in module.variants if variant.is_mechanism):
            require_support(mechanism, rules, nothing)
    except NotSupportedError as error:
        return str(error)
    return None


def _prepare(spec: VariantSpec, inputs: Inputs, dropout_p: float) -> Prepared:
    """Gradients also go to the parameters of the variant, those that it uses."""
    case, leaves, device = inputs.case, inputs.leaves, inputs.grad_out.device
    torch.manual_seed(0)
    module = _built(spec, case, device)
    mask = _mask(case, inputs.key_padding)
    bias: AttentionBias | None = DenseBias(leaves["bias"]) if "bias" in leaves else None
    if "table" in leaves:
        bias = RelativeBuckets(leaves["table"], True, MAX_DISTANCE)
    x = leaves["query"].detach().transpose(1, 2).flatten(2)  # (B, S, H K), what gates are made of
    positions = torch.arange(case.length, device=device).expand(case.batch, -1)
    rules = AttentionRules(mask, bias, dropout_p=dropout_p)

    def forward() -> Tensor:
        query, key, value = (leaves[name] for name in ("query", "key", "value"))
        context = Context(mask, bias, positions=positions)
        for variant in module.variants:
            query, key, value = variant.project(query, key, value, context)
        output = module._varied(x, query, key, value, context, rules).output
        return output.masked_fill(~inputs.real, 0.0)

    own: dict[str, Tensor] = dict(module.variants.named_parameters()) if module.variants else {}  # type: ignore[attr-defined]
    all_leaves = {**leaves, **own}
    used = torch.autograd.grad(forward(), list(all_leaves.values()), inputs.grad_out, allow_unused=True)
    found = {name: leaf for (name, leaf), g in zip(all_leaves.items(), used, strict=True) if g is not None}
    return Prepared(forward, found, inputs.grad_out)
