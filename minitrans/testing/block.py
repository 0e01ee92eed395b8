"""A variant where it will live: in multi-head attention, behind projections, with positions, padding and a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minitrans.attention.context import Context
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.attention.rules import AttentionResult
from minitrans.layers.cache import GrowingCache
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.testing.behaviour import SELF, against_differences, draw
from minitrans.testing.cases import Inputs
from minitrans.testing.subject import Call, Log, Subject, context_of, expect, outcome, seeded, wrong_return

_REAL = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])  # (B, T)
_MASKS: dict[str, Callable[[torch.device], AttentionMask]] = {
    "key padding": lambda device: AttentionMask(key_padding=_REAL.to(device)),
    "causal": lambda device: AttentionMask(causal=True),
}


def run_in_block(subject: Subject, dtypes: Sequence[torch.dtype], log: Log) -> None:
    """What goes through `project` and `finish` too, on the backend of the subject."""
    checks: dict[str, Callable[[Subject], None]] = {"projections": _projects, "packed": _packed}
    if subject.backend not in ("eager", "auto"):
        checks["against eager"] = _as_on_eager
    else:
        for name, mask in _MASKS.items():
            checks[f"{name}: what is forbidden changes nothing"] = partial(_unseen, mask_on=mask)
        checks |= {"gradients": _gradients, "token by token": _token_by_token}
        checks |= {f"{str(dtype).removeprefix('torch.')}": partial(_keeps_dtype, dtype=dtype) for dtype in dtypes}
    for name, check in checks.items():
        log.run(f"{subject.name}, in a block, {name}", check, subject)


def _block(subject: Subject, backend: str | None = None) -> tuple[MultiHeadAttention, Call, Inputs]:
    """Multi-head attention with the variants in it, and inputs of which x counts."""
    call, inputs = draw(subject, "block")
    sizes = subject.fixed.of(SELF)
    with seeded(11, torch.device("cpu")):
        module = MultiHeadAttention(
            sizes.model_width, sizes.heads, num_kv_heads=sizes.groups, head_width=sizes.width
        )  # fmt: skip
    module.to(subject.device, subject.dtype).requires_grad_(False)
    name = subject.backend if backend is None else backend
    module.install(call.variants, name if isinstance(name, str) else "auto")
    return module.eval(), call, replace(inputs, gradients={"output": inputs.leaves["x"].flip(0).clone()})


def _run(module: MultiHeadAttention, x: Tensor, **context: Any) -> Tensor:
    """(B, T, D) -> (B, T, D), or (N, D) -> (N, D) with a layout."""
    layout = context.get("layout")
    positions = (
        torch.arange(x.shape[-2], device=x.device).expand(x.shape[:-1]) if layout is None else layout.positions()
    )
    output: Tensor = module(x, Context(positions=positions, **context)).output
    given, made = (f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in (x, output))
    expect(given == made, f"the block made {made} of {given}")
    return output


def _results(module: MultiHeadAttention, **mask: Any) -> Callable[..., AttentionResult]:
    """The block as a function of inputs, some of which are padding."""

    def run(inputs: Inputs, **changes: Any) -> AttentionResult:
        x = inputs.leaves["x"]
        return AttentionResult(_run(module, x, mask=AttentionMask(key_padding=_REAL.to(x.device), **mask)))

    return run


def _projects(subject: Subject) -> None:
    """`project` keeps shapes and types, but for the number of key heads."""
    call, inputs = draw(subject, "block")
    given = (inputs.query, inputs.key, inputs.value)
    for variant in call.variants:
        made = variant.project(*given, context_of(inputs.rules, inputs.query, inputs.key))
        if not (isinstance(made, tuple) and len(made) == 3):
            raise wrong_return(f"{type(variant).__name__}.project", "(query, key, value)", made)
        for name, before, after in zip(("queries", "keys", "values"), given, made, strict=True):
            was, now = (f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in (before, after))
            heads = before.shape[1] % after.shape[1] == 0 if name != "queries" else before.shape[1] == after.shape[1]
            same = before.shape[:1] + before.shape[2:] == after.shape[:1] + after.shape[2:]
            expect(heads and same and before.dtype == after.dtype, f"the {name} were {was}, now {now}")


def _as_on_eager(subject: Subject) -> None:
    """Output, and where there are gradients those of x and of the parameters."""
    (module, call, inputs), (plain, reference, _) = _block(subject), _block(subject, "eager")
    gradient = call.trains(inputs)
    found, _ = outcome(_results(module, causal=True), inputs, call.parameters, gradient=gradient)
    expected, _ = outcome(_results(plain, causal=True), inputs, reference.parameters, gradient=gradient)
    for name, tensor in found.items():
        subject.same(tensor, expected[name], f"{name} differs from that on eager")


def _packed(subject: Subject) -> None:
    """A packed batch is its sequences, each run by itself."""
    module, _, inputs = _block(subject)
    x = inputs.leaves["x"].flatten(0, 1)[:9]  # (N, D)
    lengths = [3, 0, 5, 1]
    found = _run(module, x, layout=PackedLayout.from_lengths(lengths, x.device))
    alone = torch.cat([_run(module, part[None])[0] for part in torch.split(x, lengths) if len(part)])
    subject.same(found, alone, "a packed batch differs from its sequences run alone")


def _unseen(subject: Subject, mask_on: Callable[[torch.device], AttentionMask]) -> None:
    """What x holds at a token reaches nobody who may not attend to it."""
    module, _, inputs = _block(subject)
    x = inputs.leaves["x"]
    mask = mask_on(x.device)
    dense = mask.to_dense(x.shape[1], x.shape[1], x.device)
    assert dense is not None
    allowed = dense.expand(x.shape[0], 1, x.shape[1], -1)[:, 0]  # (B, T, S)
    plain = _run(module, x, mask=mask)
    for j in range(x.shape[1]):
        hidden = ~allowed[:, :, j]
        hidden[:, j] = False  # the token itself
        other = x.clone()
        other[:, j] = 100 * x[:, j].flip(-1)
        found = _run(module, other, mask=mask)
        subject.same(found[hidden], plain[hidden], "what a token holds changed tokens that may not attend to it")


def _gradients(subject: Subject) -> None:
    """Of x and of the parameters, against differences."""
    module, call, inputs = _block(subject)
    against_differences(_results(module), inputs, call.parameters)


def _token_by_token(subject: Subject) -> None:
    """With a cache a decoder gives what it gives for the whole."""
    module, _, inputs = _block(subject)
    x, mask, cache = inputs.leaves["x"], AttentionMask(causal=True), GrowingCache()
    steps = []
    for at in range(x.shape[1]):
        positions = torch.full((x.shape[0], 1), at, device=x.device)
        steps.append(module(x[:, at : at + 1], Context(mask, positions=positions), cache).output)
    whole = _run(module, x, mask=mask)
    subject.same(torch.cat(steps, dim=1), whole, "token by token, with a cache, differs from the whole")


def _keeps_dtype(subject: Subject, dtype: torch.dtype) -> None:
    module, _, inputs = _block(replace(subject, dtype=dtype))
    _run(module, inputs.leaves["x"])
