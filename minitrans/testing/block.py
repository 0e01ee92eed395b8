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
from minitrans.errors import NotSupportedError
from minitrans.layers.cache import GrowingCache
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.testing.behaviour import SELF, Bench, check_differences
from minitrans.testing.cases import Inputs
from minitrans.testing.subject import Call, Log, Subject, context_of, expect, outcome, seeded, wrong_return

_REAL = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])  # (B, T)
_MASKS = {
    "key padding": AttentionMask(key_padding=_REAL),
    "causal": AttentionMask(causal=True),
}


def check_in_block(subject: Subject, dtypes: Sequence[torch.dtype], log: Log) -> None:
    """What goes through `project` and `finish` too, on the backend of the subject."""
    bench = Bench(subject, subject.widest)
    log.run(f"{subject.name}, in a block, projections", _projects, bench)
    log.run(f"{subject.name}, in a block, packed", _packed, bench)
    if subject.backend not in ("eager", "auto"):
        log.run(f"{subject.name}, in a block, against eager", _as_on_eager, bench)
        return
    for name, mask in _MASKS.items():
        log.run(f"{subject.name}, in a block, {name}: what is forbidden changes nothing", _unseen, bench, mask)
    log.run(f"{subject.name}, in a block, gradients", _gradients, bench)
    log.run(f"{subject.name}, in a block, token by token", _token_by_token, bench)
    for dtype in dtypes:
        log.run(f"{subject.name}, in a block, {str(dtype).removeprefix('torch.')}", _keeps_dtype, bench, dtype)


def _module(bench: Bench, backend: str | None = None) -> tuple[MultiHeadAttention, Call, Inputs]:
    """Multi-head attention with the variants in it, and inputs of which x counts."""
    call, inputs = bench.draw("block")
    sizes = bench.subject.fixed.of(SELF)
    with seeded(11, torch.device("cpu")):
        module = MultiHeadAttention(
            sizes.model_width, sizes.heads, num_kv_heads=sizes.groups, head_width=sizes.width
        )  # fmt: skip
    module.to(bench.subject.device, bench.dtype).requires_grad_(False)
    name = bench.subject.backend if backend is None else backend
    module.install(call.variants, name if isinstance(name, str) else "auto")
    return module.eval(), call, inputs


def _run(module: MultiHeadAttention, x: Tensor, **context: Any) -> Tensor:
    """(B, T, D) -> (B, T, D), or (N, D) -> (N, D) with a layout."""
    layout = context.get("layout")
    positions = (
        torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1) if layout is None else layout.positions()
    )
    output = module(x, Context(positions=positions, **context)).output
    expect(
        output.shape == x.shape and output.dtype == x.dtype,
        f"the block made {tuple(output.shape)} {output.dtype} of {tuple(x.shape)} {x.dtype}",
    )
    return output  # type: ignore[no-any-return]


def _as_result(run: Callable[[Tensor], Tensor], inputs: Inputs, **changes: Any) -> AttentionResult:
    return AttentionResult(run(inputs.leaves["x"]))


def _projects(bench: Bench) -> None:
    """`project` keeps shapes and types."""
    call, inputs = bench.draw("block")
    given = (inputs.query, inputs.key, inputs.value)
    for variant in call.variants:
        made = variant.project(*given, context_of(inputs.rules, inputs.query, inputs.key))
        if not (isinstance(made, tuple) and len(made) == 3):
            raise wrong_return(f"{type(variant).__name__}.project", "(query, key, value)", made)
        for name, before, after in zip(("queries", "keys", "values"), given, made, strict=True):
            same = before.shape == after.shape and before.dtype == after.dtype
            expect(
                same, f"the {name} were {tuple(before.shape)} {before.dtype}, now {tuple(after.shape)} {after.dtype}"
            )


def _as_on_eager(bench: Bench) -> None:
    """Output, and where there are gradients those of x and of the parameters."""
    (module, call, inputs), (plain, reference, _) = _module(bench), _module(bench, "eager")
    mask = AttentionMask(key_padding=_REAL.to(inputs.query.device), causal=True)
    inputs = replace(inputs, leaves={"x": inputs.leaves["x"]}, gradients={"output": inputs.leaves["x"].flip(0).clone()})
    for gradient in (True, False):
        try:
            found, _ = outcome(
                partial(_as_result, partial(_run, module, mask=mask)), inputs, call.parameters, gradient=gradient
            )
        except NotSupportedError as error:
            refusal = error
        else:
            break
    else:
        raise refusal
    expected, _ = outcome(
        partial(_as_result, partial(_run, plain, mask=mask)), inputs, reference.parameters, gradient=gradient
    )
    for name, tensor in found.items():
        bench.same(tensor, expected[name], f"{name} differs from that on eager")


def _packed(bench: Bench) -> None:
    """A packed batch is its sequences, each run by itself."""
    module, _, inputs = _module(bench)
    x = inputs.leaves["x"].flatten(0, 1)[:9]  # (N, D)
    lengths = [3, 0, 5, 1]
    found = _run(module, x, layout=PackedLayout.from_lengths(lengths, x.device))
    alone = torch.cat([_run(module, part[None])[0] for part in torch.split(x, lengths) if len(part)])
    bench.same(found, alone, "a packed batch differs from its sequences run alone")


def _unseen(bench: Bench, mask: AttentionMask) -> None:
    """What x holds at a token reaches nobody who may not attend to it."""
    module, _, inputs = _module(bench)
    x = inputs.leaves["x"]
    if mask.key_padding is not None:
        mask = AttentionMask(key_padding=mask.key_padding.to(x.device))
    allowed = mask.to_dense(x.shape[1], x.shape[1], x.device)
    assert allowed is not None
    allowed = allowed.expand(x.shape[0], 1, x.shape[1], -1)[:, 0]  # (B, T, S)
    plain = _run(module, x, mask=mask)
    for j in range(x.shape[1]):
        hidden = ~allowed[:, :, j]
        hidden[:, j] = False  # the token itself
        other = x.clone()
        other[:, j] = 100 * x[:, j].flip(-1)
        found = _run(module, other, mask=mask)
        bench.same(found[hidden], plain[hidden], "what a token holds changed tokens that may not attend to it")


def _gradients(bench: Bench) -> None:
    """Of x and of the parameters, against differences."""
    module, call, inputs = _module(bench)
    inputs = replace(
        inputs,
        leaves={"query": inputs.query, "x": inputs.leaves["x"]},
        gradients={"output": inputs.leaves["x"].flip(0).clone()},
    )
    mask = AttentionMask(key_padding=_REAL.to(inputs.query.device))
    check_differences(partial(_as_result, partial(_run, module, mask=mask)), inputs, call.parameters)


def _token_by_token(bench: Bench) -> None:
    """With a cache a decoder gives what it gives for the whole."""
    module, _, inputs = _module(bench)
    x, mask, cache = inputs.leaves["x"], AttentionMask(causal=True), GrowingCache()
    steps = []
    for at in range(x.shape[1]):
        positions = torch.full((x.shape[0], 1), at, device=x.device)
        steps.append(module(x[:, at : at + 1], Context(mask, positions=positions), cache).output)
    bench.same(
        torch.cat(steps, dim=1), _run(module, x, mask=mask), "token by token, with a cache, differs from the whole"
    )


def _keeps_dtype(bench: Bench, dtype: torch.dtype) -> None:
    module, _, inputs = _module(replace(bench, dtype=dtype))
    _run(module, inputs.leaves["x"])
