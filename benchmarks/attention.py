"""Attention side by side: minitrans_kernels, every backend of torch's SDPA, FlexAttention, plain Triton, and any variant.

    python -m benchmarks.attention            (on a GPU; on a CPU it runs small cases, to try the code)
    python -m benchmarks.attention --variant linear --variant my.py:MyAttention --length 128 --length 512 --mask padded

Nothing is timed before its output and its gradients were compared with float64; who errs more than twice (gradients: three
times) as much as plain torch in the same dtype is listed as wrong. Times are medians with quartiles of runs that take turns. The
share of the limits is that of a matrix product and of a copy measured in the same run. Rows of the case "low_scores" count the
elements that are not finite: where every score of a row is near -120, cuDNN's backward gave NaN at some lengths
(github.com/pytorch/pytorch/issues/196678).

A variant is no softmax attention: it is timed where it passes the contract test (`minitrans.testing.check_attention`) and its
output and gradients are finite; its error is that of its dtype against itself in float64. Beside the JSON file lie the same rows
as CSV and as Markdown.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated

import torch
import typer

from benchmarks import attention_gate as gate
from benchmarks.attention_cases import DROPOUT, KINDS, Case, Inputs, cases, make, of_shape
from benchmarks.attention_providers import PROVIDERS, Provider
from benchmarks.attention_variants import FULL, variant_providers
from benchmarks.measuring import Budget, Quiet, first_line, is_fatal
from benchmarks.options import CompileOnly, Only, Results, Resume, Seconds, Small
from benchmarks.record import RESULTS, Record, Row, chosen_device, open_record
from benchmarks.report import write_beside
from benchmarks.runs import Expected, Prepared, calls_of, measure, path_of, verdict
from benchmarks.sweep import DeviceLostError, Job, sweep
from minitrans.cli import errors

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
SHAPE = {"batch": 8, "heads": 12, "length": 512, "width": 64}
DTYPES = ("bfloat16", "float16", "float32")
_RATES = ("tflops", "share_of_matmul", "share_of_copy")


def check(provider: Provider, inputs: Inputs, known: dict[bool, Expected]) -> tuple[Prepared | None, Row]:
    """The provider ready for timing, or None, and a row that says how it did.

    `known` says what to expect without dropout (False) and with that of `dropout_mask` (True).
    """
    case = inputs.case
    if not provider.is_softmax:
        return check_variant(provider, inputs)
    drops = case.kind == "dropout"
    same_mask = drops and provider.drops_like_dropout_mask
    prepared = provider.prepare(inputs, DROPOUT if same_mask else 0.0)
    found = prepared.results()
    found["output"] = found["output"].masked_fill(~inputs.real, 0.0)
    wanted = known[same_mask]
    row = verdict(wanted.errors(found), wanted.allowed)
    if provider.ours:
        row |= path_of(inputs.grad_out)
    if case.kind == "low_scores":
        return None, {**row, "status": "checked", "not_finite": gate.not_finite(found)}
    if "status" in row:
        return None, row
    if drops and not same_mask:  # its random bits are its own: the share it keeps is what can be checked
        row["kept"] = kept = _kept_share(provider, inputs)
        # the deviation of that share, were every query to see one key only, is at most this
        deviation = (DROPOUT * (1 - DROPOUT) / (case.batch * case.heads * case.length)) ** 0.5
        if abs(kept - (1 - DROPOUT)) > 5 * deviation + 0.002:
            return None, {**row, "status": "wrong", "reason": f"it keeps {kept:.3f} of the probabilities"}
        prepared = provider.prepare(inputs, DROPOUT)
    return prepared, row


def check_variant(provider: Provider, inputs: Inputs) -> tuple[Prepared | None, Row]:
    """As `check`, of one that need not be softmax attention."""
    prepared = provider.prepare(inputs, 0.0)
    found = prepared.results()
    reason = provider.fault()
    if reason is None and any(gate.not_finite(found).values()):
        reason = "it gives numbers that are not finite"
    if reason is not None:
        return None, {"status": "wrong", "reason": first_line(ValueError(reason))}
    exact = provider.prepare(inputs.in_float64(), 0.0).results()
    error = {
        name: (found[name] - exact[name]).abs().max().item()
        for name in ("output", "query", "key", "value")
        if name in found
    }
    dropout_p = DROPOUT if inputs.case.kind == "dropout" else 0.0
    return provider.prepare(inputs, dropout_p) if dropout_p else prepared, {"error": error}


def _kept_share(provider: Provider, inputs: Inputs) -> float:
    """The mean output over values of one is the mass that survives, divided by 1 - p."""
    leaves = {**inputs.leaves, "value": torch.ones_like(inputs.leaves["value"])}
    prepared = provider.prepare(Inputs(inputs.case, leaves, inputs.grad_out, None, inputs.seed), DROPOUT)
    with torch.no_grad():
        return float(prepared.forward().float().mean()) * (1 - DROPOUT)


def rates(case: Case, limits: dict[str, float], mode: str, ms: float) -> Row:
    """TFLOP/s and shares of the limits."""
    tflops = case.flops(mode) / ms / 1e9
    return {
        "tflops": tflops,
        "share_of_matmul": tflops / limits["matmul_tflops"],
        "share_of_copy": case.least_bytes(mode) / ms / 1e9 / limits["copy_tb_per_s"],
    }


def job(case: Case, device: torch.device, record: Record, wanted: list[Provider]) -> Job:
    """The case with its inputs, for `sweep`."""
    inputs = make(case, device)
    known: dict[bool, Expected] = {}
    refusals = {provider.name: provider.refuses(case, device) for provider in wanted}
    others = {provider.name for provider in wanted if not provider.is_softmax}

    def begin() -> None:
        known.update({drops: gate.expected(inputs, dropout=drops) for drops in {False, case.kind == "dropout"}})

    def timing(ready: dict[str, Prepared]) -> dict[str, dict[str, Row]]:
        known.clear()  # room for what is timed
        inputs.kept = None
        rows = measure(ready, device, partial(rates, case, record.limits))
        for name in rows.keys() & others:  # the work of softmax attention is not theirs
            rows[name] = {
                mode: {key: value for key, value in row.items() if not key.endswith(_RATES)}
                for mode, row in rows[name].items()
            }
        return rows

    return Job(
        key=case.key,
        begin=begin,
        refusals={name: reason for name, reason in refusals.items() if reason is not None},
        checks={
            provider.name: partial(check, provider, inputs, known)
            for provider in wanted
            if refusals[provider.name] is None
        },
        measure=timing,
    )


def warm_up(chosen: list[Case], wanted: list[Provider], device: torch.device, shard: tuple[int, int]) -> None:
    """Runs each case once, so that what it compiles is found on disk later; of `shard` (number, of how many) its share."""
    work = [(case, provider) for case in chosen for provider in wanted if provider.compiles]
    work = [(case, provider) for case, provider in work if provider.refuses(case, device) is None]
    work.sort(key=lambda pair: pair[1].name != "flex")  # the longest first, dealt out evenly
    for case, provider in work[shard[0] :: shard[1]]:
        inputs = make(case, device)
        try:
            with Quiet():
                for call in calls_of(provider.prepare(inputs, DROPOUT if case.kind == "dropout" else 0.0)).values():
                    call()
        except Exception as error:  # will be met, and reported, when the case is measured
            typer.echo(f"{case.name} {provider.name}: {first_line(error)}", err=True)
            if is_fatal(error):
                raise DeviceLostError from error


def chosen_cases(found: list[Case], kinds: str | None) -> list[Case]:
    """Those whose kind is named. Raises ValueError for a kind that is none."""
    names = list(KINDS) if kinds is None else kinds.split(",")
    unknown = set(names) - set(KINDS)
    if unknown:
        raise ValueError(f"unknown kinds {sorted(unknown)}; known: {', '.join(KINDS)}")
    return [case for case in found if case.kind in names]


def own_shape(device: torch.device, dtype: str | None, **sizes: int | None) -> Case | None:
    """The case that was asked for by some of its sizes or its dtype, if any was given. Raises ValueError for another dtype."""
    given = {name: size for name, size in sizes.items() if size is not None}
    if not given and dtype is None:
        return None
    usual = "bfloat16" if device.type == "cuda" else "float32"
    if dtype not in (None, *DTYPES):
        raise ValueError(f"--dtype: expected one of {', '.join(DTYPES)}, got {dtype}")
    return Case("dense", **{**SHAPE, **given}, dtype=getattr(torch, dtype or usual), priority=0)


def chosen_providers(only: str | None) -> list[Provider]:
    """Those that are named. Raises ValueError for a name that is none."""
    known = {provider.name: provider for provider in PROVIDERS}
    names = list(known) if only is None else only.split(",")
    unknown = set(names) - set(known)
    if unknown:
        raise ValueError(f"unknown providers {sorted(unknown)}; known: {', '.join(known)}")
    return [known[name] for name in names]


@app.command()
def main(
    small: Small = False,
    batch: Annotated[int | None, typer.Option(min=1, help="Sequences of a shape of your own (8).")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Its heads (12).")] = None,
    length: Annotated[
        list[int] | None, typer.Option(min=1, help="Its tokens a sequence (512); several times for several.")
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Its width of a head (64).")] = None,
    dtype: Annotated[str | None, typer.Option(help=f"Its dtype: {', '.join(DTYPES)}.")] = None,
    kinds: Annotated[
        str | None,
        typer.Option("--kinds", "--mask", help="Kinds of cases, masks, with commas; in your own shape: dense."),
    ] = None,
    only: Only = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="A variant by name, JSON, module:Class or my.py:Class; several times for several."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="PROVIDER",
            help="What times are compared with; default: the fastest that is not ours, or full where there are variants.",
        ),
    ] = None,
    seconds: Seconds = 3600,
    results: Results = RESULTS,
    resume: Resume = False,
    compile_only: CompileOnly = None,
) -> None:
    """Time every provider on every case; print a table of each, with why a provider has no time, and write a dated JSON file.

    Examples:

        python -m benchmarks.attention --kinds dense,padded

        python -m benchmarks.attention --only "minitrans,flex" --baseline flex

        python -m benchmarks.attention --length 512 --variant sigmoid
    """
    budget = Budget.of(seconds)
    device, small = chosen_device(small)
    lengths = [None] if length is None else dict.fromkeys(length)
    own = [own_shape(device, dtype, batch=batch, heads=heads, length=each, width=width) for each in lengths]
    shaped = [case for base in own if base is not None for case in chosen_cases(of_shape(base), kinds or "dense")]
    chosen = shaped or chosen_cases(cases(small=small), kinds)
    wanted = chosen_providers(only) if only is not None or not variant else []
    wanted += variant_providers(variant) if variant else []
    baseline = baseline or (FULL if variant else None)
    if baseline not in (None, *(provider.name for provider in wanted)):
        raise ValueError(f"--baseline: expected one of {', '.join(p.name for p in wanted)}, got {baseline}")
    if compile_only is not None:
        number, _, of = compile_only.partition("/")
        warm_up(chosen, wanted, device, (int(number), int(of)))
        return
    record = open_record("attention", device, results, resume=resume, small=small, dropout=DROPOUT)
    jobs = ((case.key, partial(job, case, device, record, wanted)) for case in chosen)
    sweep(record, jobs, budget, baseline)
    write_beside(record.path, baseline)


if __name__ == "__main__":
    sys.exit(errors.run(app, "python -m benchmarks.attention"))
