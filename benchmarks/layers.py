"""The memory-bound layers of an encoder: our kernels beside eager and compiled torch, as shares of what a copy reaches.

    python -m benchmarks.layers            (on a GPU; on a CPU it runs small cases, to try the code)

Each provider's output and gradients are compared with float64 before anything is timed: who errs more than twice (gradients:
three times) as much as eager torch in the same dtype is listed as wrong. `share_of_copy` is the least traffic of the layer, each
tensor once, over the time and over the rate of a copy measured in the same run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import torch
import typer
from minitrans_kernels import dropout_mask
from torch import Tensor

from benchmarks.layer_cases import DROPOUT, LAYERS, Leaves, Maker, Problem, Sizes, sizes_of
from benchmarks.measuring import Budget, first_line
from benchmarks.options import CompileOnly, Only, Results, Resume, Seconds, Small
from benchmarks.record import RESULTS, Record, Row, chosen_device, open_record
from benchmarks.runs import Expected, Prepared, calls_of, measure, path_of, verdict
from benchmarks.sweep import Job, sweep
from minitrans.cli import errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
OURS = "minitrans"
Function = Callable[[Leaves, float], Tensor]


def providers(problem: Problem, device: torch.device) -> dict[str, Function]:
    """Ours, torch, torch compiled (where there is a GPU), and what the layer has besides."""
    found: dict[str, Function] = {OURS: problem.ours, "torch": problem.torch, **problem.others}
    if device.type == "cuda":
        found["torch compiled"] = torch.compile(problem.torch, dynamic=False)
    return found


def prepared(problem: Problem, function: Function, dropout_p: float) -> Prepared:
    """A function with the inputs of the problem."""
    return Prepared(lambda: function(problem.leaves, dropout_p), problem.leaves, problem.grad_out)


def exactly(problem: Problem, dtype: torch.dtype, dropout_p: float) -> dict[str, Tensor]:
    """Output and gradients of plain torch in `dtype`, with the dropout of `dropout_mask` if any."""
    leaves = {name: leaf.detach().to(dtype).requires_grad_() for name, leaf in problem.leaves.items()}
    if dropout_p:
        assert problem.exact is not None
        assert problem.seed is not None
        kept = dropout_mask(tuple(problem.grad_out.shape), dropout_p, problem.seed)
        output = problem.exact(leaves, dropout_p, kept)
    else:
        output = problem.torch(leaves, 0.0)
    gradients = torch.autograd.grad(output, list(leaves.values()), problem.grad_out.to(output.dtype))
    return {"output": output.detach(), **dict(zip(leaves, gradients, strict=True))}


def expected(problem: Problem, dropout_p: float) -> Expected:
    """What a layer must give, with our dropout if any."""
    dtype = problem.leaves[next(iter(problem.leaves))].dtype
    return Expected.of(exactly(problem, torch.float64, dropout_p), exactly(problem, dtype, dropout_p), dtype)


def check(
    name: str, function: Function, problem: Problem, dropout_p: float, known: dict[float, Expected]
) -> tuple[Prepared | None, Row]:
    """What can be timed, or None, and a row that says how large the errors are."""
    checked_p = dropout_p if name == OURS else 0.0  # the bits of others are their own
    wanted = known[checked_p]
    row = verdict(wanted.errors(prepared(problem, function, checked_p).results()), wanted.allowed)
    if name == OURS:
        row |= path_of(problem.grad_out)
    return (None if "status" in row else prepared(problem, function, dropout_p)), row


def rates(problem: Problem, limits: dict[str, float], mode: str, ms: float) -> Row:
    """Share of the copy, and of the matrix product where there is one."""
    row: Row = {"share_of_copy": problem.least_bytes[mode] / ms / 1e9 / limits["copy_tb_per_s"]}
    if problem.flops:
        row["tflops"] = problem.flops[mode] / ms / 1e9
        row["share_of_matmul"] = row["tflops"] / limits["matmul_tflops"]
    return row


def key_of(layer: str, sizes: Sizes) -> Row:
    """What names the case in a result."""
    dtype = str(sizes.dtype).removeprefix("torch.")
    return {"case": layer, "N": sizes.tokens, "D": sizes.width, "V": sizes.vocabulary, "dtype": dtype}


def job(layer: str, sizes: Sizes, device: torch.device, record: Record, only: list[str] | None) -> Job:
    """The case with its inputs, for `sweep`."""
    if device.type == "cuda":
        torch._dynamo.reset()  # each case is a program of its own; the earlier ones would only lengthen the search
    build, dropout_p = LAYERS[layer]
    problem = build(Maker(sizes, dropout_p, device))
    known: dict[float, Expected] = {}

    def timing(ready: dict[str, Any]) -> dict[str, dict[str, Row]]:
        known.clear()  # room for what is timed
        return measure(ready, device, partial(rates, problem, record.limits))

    wanted = {name: function for name, function in providers(problem, device).items() if only is None or name in only}
    return Job(
        key=key_of(layer, sizes),
        begin=lambda: known.update({p: expected(problem, p) for p in {0.0, dropout_p}}),
        refusals={} if device.type == "cuda" else {"torch compiled": "left out on a CPU"},
        checks={name: partial(check, name, function, problem, dropout_p, known) for name, function in wanted.items()},
        measure=timing,
    )


def warm_up(cases: list[tuple[str, Sizes]], device: torch.device, shard: tuple[int, int]) -> None:
    """Runs what compiles once, so that a later process finds it on disk; of `shard` (number, of how many) its share."""
    for layer, sizes in cases[shard[0] :: shard[1]]:
        build, dropout_p = LAYERS[layer]
        problem = build(Maker(sizes, dropout_p, device))
        for name, function in providers(problem, device).items():
            if name in (OURS, "torch compiled"):
                try:
                    for p in {0.0, dropout_p}:
                        for call in calls_of(prepared(problem, function, p)).values():
                            call()
                except Exception as error:  # will be met, and reported, when the case is measured
                    typer.echo(f"{layer} {name}: {first_line(error)}", err=True)


@app.command()
def main(
    small: Small = False,
    layers: Annotated[str | None, typer.Option(help="Names of layers, with commas.")] = None,
    only: Only = None,
    seconds: Seconds = 3600,
    results: Results = RESULTS,
    resume: Resume = False,
    compile_only: CompileOnly = None,
) -> None:
    """Time every provider on every layer; print a table of each, with why a provider has no time, and write a dated JSON file.

    Examples:

        python -m benchmarks.layers --layers bias_gelu,rms_norm

        python -m benchmarks.layers --small
    """
    import torch._functorch.config

    budget = Budget.of(seconds)
    device, small = chosen_device(small)
    names = list(LAYERS) if layers is None else layers.split(",")
    if not set(names) <= set(LAYERS):
        raise ValueError(f"unknown layers {sorted(set(names) - set(LAYERS))}; known: {', '.join(LAYERS)}")
    torch._functorch.config.donated_buffer = False  # the backward is timed alone, so the forward's tensors must last
    cases = [(name, sizes) for sizes in sizes_of(small=small) for name in names]
    if compile_only is not None:
        number, _, of = compile_only.partition("/")
        warm_up(cases, device, (int(number), int(of)))
        return
    record = open_record("layers", device, results, resume=resume, small=small, dropout=DROPOUT)
    wanted = None if only is None else only.split(",")
    sweep(record, ((key_of(*case), partial(job, *case, device, record, wanted)) for case in cases), budget)


if __name__ == "__main__":
    sys.exit(errors.run(app, "python -m benchmarks.layers"))
