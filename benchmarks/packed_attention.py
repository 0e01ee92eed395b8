"""Attention over sequences of many lengths on a CPU: ways not to pay for padding, beside paying for it.

    python -m benchmarks.packed_attention --json

Every way is given the projections of the same random tokens and must agree with the equation in float64 before it is timed; the
runs are interleaved, figures are medians with quartiles over one layer. What a way works out from the lengths alone, once for all
layers of a model, is told apart as `plan_ms`.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from benchmarks.measuring import quantiles
from benchmarks.options import AsJson, Results
from benchmarks.padding import lengths_of_fill
from benchmarks.record import RESULTS, result_file, save
from benchmarks.tables import quartiles, shown, table
from minitrans.attention.dispatch import attend
from minitrans.attention.layout import PackedLayout
from minitrans.attention.rules import AttentionRules
from minitrans.cli import errors, options
from minitrans.cpu.attention import attend_in_rows
from minitrans.cpu.rows import Rows, lay_out

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# What rounding may do to a weighted mean of numbers near 1: a few units in the last place of the dtype.
HEADING = ("way", "ms", "quartiles", "x padded", "ms to plan", "not timed")
ALLOWED = {"float32": 1e-5, "bfloat16": 3e-2}


@dataclass(frozen=True)
class Batch:
    """Projected tokens.

    Attributes:
        lengths: of the sequences.
        packed: (N, 3, H, K) queries, keys and values, sequence after sequence.
        padded: (B, T, 3, H, K), with zeros at padding.
        real: (B, T), True at real tokens.
    """

    lengths: list[int]
    packed: Tensor
    padded: Tensor
    real: Tensor


@dataclass(frozen=True)
class Way:
    """One way: `plan` makes of a batch what its lengths alone decide, `run` attends and gives (N, H, K), or (B, T, H, K)."""

    plan: Callable[[Batch], Any]
    run: Callable[[Batch, Any], Tensor]


def in_padding(batch: Batch, mask: Tensor) -> Tensor:
    q, k, v = batch.padded.permute(2, 0, 3, 1, 4)  # (B, H, T, K)
    return sdpa(q, k, v, attn_mask=mask).transpose(1, 2)


def one_by_one(batch: Batch, starts: Sequence[int]) -> Tensor:
    outputs = []
    for start, length in zip(starts, batch.lengths, strict=True):
        q, k, v = batch.packed[start : start + length].permute(1, 2, 0, 3)[:, None]  # (1, H, n, K)
        outputs.append(sdpa(q, k, v)[0].transpose(0, 1))
    return torch.cat(outputs)


def by_length(batch: Batch, layout: PackedLayout) -> Tensor:
    q, k, v = batch.packed.unbind(1)
    return attend(q, k, v, AttentionRules(layout=layout), backend="sdpa").output


def nested(batch: Batch, offsets: Tensor) -> Tensor:
    q, k, v = (
        torch.nested.nested_tensor_from_jagged(each.contiguous(), offsets).transpose(1, 2)  # (B, H, jagged, K)
        for each in batch.packed.unbind(1)
    )
    return sdpa(q, k, v).transpose(1, 2).values()


def nested_strided(batch: Batch, _: None) -> Tensor:
    q, k, v = (
        torch.nested.as_nested_tensor(list(torch.split(each, batch.lengths)), layout=torch.strided)
        .transpose(1, 2)
        .contiguous()  # (B, H, ragged, K)
        for each in batch.packed.unbind(1)
    )
    return torch.cat([each.transpose(0, 1) for each in sdpa(q, k, v).unbind()])


def shared_rows(batch: Batch, rows: Rows) -> Tensor:
    """As the blocks of `minitrans.cpu` do it."""
    return attend_in_rows(batch.packed, rows).view(batch.packed[:, 0].shape)


def _starts(lengths: Sequence[int]) -> list[int]:
    return torch.tensor([0, *lengths]).cumsum(0).tolist()


WAYS: dict[str, Way] = {
    "padded": Way(lambda batch: batch.real[:, None, None], in_padding),
    "one by one": Way(lambda batch: _starts(batch.lengths)[:-1], one_by_one),
    "by length": Way(lambda batch: PackedLayout.from_lengths(batch.lengths), by_length),
    "nested, jagged": Way(lambda batch: torch.tensor(_starts(batch.lengths)), nested),
    "nested, strided": Way(lambda batch: None, nested_strided),
    "shared rows": Way(lambda batch: lay_out(batch.lengths, batch.packed.dtype), shared_rows),
}


def batch_of(lengths: list[int], heads: int, width: int, dtype: torch.dtype) -> Batch:
    generator = torch.Generator().manual_seed(0)
    packed = torch.randn(sum(lengths), 3, heads, width, generator=generator).to(dtype)
    real = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    padded = packed.new_zeros(*real.shape, *packed.shape[1:])
    padded[real] = packed
    return Batch(lengths, packed, padded, real)


def oracle(batch: Batch) -> Tensor:
    """(N, H, K) float64, by the equation."""
    outputs = []
    for sequence in torch.split(batch.packed.double(), batch.lengths):
        q, k, v = sequence.permute(1, 2, 0, 3)  # (H, n, K)
        outputs.append((torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1) @ v).transpose(0, 1))
    return torch.cat(outputs)


def lengths_of(name: str, sequences: int) -> list[int]:
    """Of a row of CASES."""
    kind, number = CASES[name]
    if kind == "words":
        generator = torch.Generator().manual_seed(0)
        return (5 + 25 * torch.rand(sequences, generator=generator) ** 2).long().tolist()
    return lengths_of_fill(kind, sequences, number)


# What the lengths look like: of short sentences, or a fill and the longest sequence.
CASES: dict[str, tuple[Any, int]] = {
    "sentences of 5 to 30": ("words", 30),
    "up to 128, fill 0.2": (0.2, 128),
    "up to 128, fill 0.5": (0.5, 128),
    "up to 128, fill 0.9": (0.9, 128),
    "up to 512, fill 0.5": (0.5, 512),
}


@torch.no_grad()
def measure(batch: Batch, dtype: str, repeats: int) -> list[dict[str, Any]]:
    """A row per way: its times, or why there are none."""
    exact = oracle(batch)
    rows: dict[str, dict[str, Any]] = {}
    plans: dict[str, Any] = {}
    for name, way in WAYS.items():
        rows[name] = {"way": name}
        try:
            plans[name] = way.plan(batch)
            found = way.run(batch, plans[name])
        except (RuntimeError, NotImplementedError, ValueError) as error:  # torch says so of layouts that it cannot
            rows[name]["unserved"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        real = found[batch.real] if name == "padded" else found
        rows[name]["error"] = ((real.double() - exact).abs().max() / exact.abs().max()).item()
    served = [name for name, row in rows.items() if row.get("error", 1.0) <= ALLOWED[dtype]]
    times: dict[str, list[float]] = {name: [] for name in served}
    planning: dict[str, list[float]] = {name: [] for name in served}
    for _ in range(repeats):
        for name in served:
            start = time.perf_counter()
            plan = WAYS[name].plan(batch)
            middle = time.perf_counter()
            WAYS[name].run(batch, plan)
            times[name].append(time.perf_counter() - middle)
            planning[name].append(middle - start)
    for name in served:
        timed = quantiles([1e3 * seconds for seconds in times[name]])
        rows[name] |= {"ms": timed["median"], "ms_low": timed["low"], "ms_high": timed["high"]}
        rows[name] |= {
            "plan_ms": 1e3 * statistics.median(planning[name]),
            "tokens_per_second": 1e3 * sum(batch.lengths) / timed["median"],
        }
    for name in served:
        rows[name]["ratio_to_padded"] = rows["padded"]["ms"] / rows[name]["ms"] if "padded" in served else None
    return list(rows.values())


@app.command()
def main(
    sequences: Annotated[int, typer.Option(min=2, help="A batch.")] = 64,
    heads: Annotated[int, typer.Option(min=1, help="Of the attention.")] = 12,
    width: Annotated[int, typer.Option(min=1, help="Of a head.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each.")] = 21,
    as_json: AsJson = False,
    results: Results = RESULTS,
    threads: options.Threads = None,
) -> None:
    """Print milliseconds a layer of every way.

    Examples:

        python -m benchmarks.packed_attention

        python -m benchmarks.packed_attention --sequences 32 --width 64 --json
    """
    warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors")
    target = result_file(results, "packed_attention") if as_json else None
    if threads is not None:
        torch.set_num_threads(threads)
    found = []
    for dtype, kind in DTYPES.items():
        for case in CASES:
            batch = batch_of(lengths_of(case, sequences), heads, width, kind)
            fill = len(batch.packed) / batch.real.numel()
            rows = measure(batch, dtype, repeats)
            found.append({"dtype": dtype, "lengths": case, "fill": fill, "tokens": len(batch.packed), "rows": rows})
            typer.echo(f"\n{dtype}, {case}\n{table(HEADING, list(map(_cells, rows)))}")
    shape = {"sequences": sequences, "heads": heads, "width": width, "repeats": repeats}
    save(target, "packed_attention", **shape, cases=found)


def _cells(row: dict[str, Any]) -> list[object]:
    if "ms" not in row:
        return [row["way"], None, None, None, None, row.get("unserved") or f"wrong: error {row['error']:.1e}"]
    spread = quartiles({"low": row["ms_low"], "high": row["ms_high"]})
    return [row["way"], row["ms"], spread, shown(row["ratio_to_padded"]), row["plan_ms"], None]


if __name__ == "__main__":
    sys.exit(errors.run(app, "python -m benchmarks.packed_attention"))
