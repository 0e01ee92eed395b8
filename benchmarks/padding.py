"""What leaving out padding saves: tokens per second of a padded and of a padding-free forward, by fill of the batch.

    python -m benchmarks.padding

The checkpoint is all-MiniLM-L6-v2 (extra `demo`) or any folder; token ids are random, lengths are drawn so that the batch is as
full as asked. Equality on the real tokens is checked before anything is timed; the runs are interleaved; figures are medians.
"""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import torch
import typer

from benchmarks.measuring import quantiles
from benchmarks.options import AsJson, Results
from benchmarks.record import RESULTS, result_file, save
from benchmarks.tables import table
from minitrans.cli import errors, options

app = typer.Typer(add_completion=False)
MODES = ("keep", "remove")


def lengths_of_fill(fill: float, batch: int, longest: int) -> list[int]:
    """`batch` lengths up to `longest`, one of them exactly that, whose mean is near `fill` * `longest`."""
    generator = torch.Generator().manual_seed(0)
    spread = min(fill, 1 - fill) * 0.9
    drawn = fill + spread * (2 * torch.rand(batch - 1, generator=generator) - 1)
    return [longest, *(max(1, round(longest * share)) for share in drawn.tolist())]


@app.command()
def main(
    model: Annotated[str | None, typer.Option(help="A folder or hub name; default: the demo checkpoint.")] = None,
    batch: Annotated[int, typer.Option(min=2, help="Sequences a batch.")] = 32,
    longest: Annotated[int, typer.Option(min=4, help="Tokens of the longest sequence.")] = 128,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each.")] = 9,
    attention: options.AttentionSpec = None,
    as_json: AsJson = False,
    results: Results = RESULTS,
    threads: options.Threads = None,
) -> None:
    """Print real tokens per second, padded ("keep") and padding-free ("remove").

    Examples:

        python -m benchmarks.padding

        python -m benchmarks.padding --batch 8 --longest 64 --json
    """
    from minitrans import AutoModel
    from minitrans.cli.demo_steps import demo_folder

    target = result_file(results, "padding") if as_json else None
    if threads is not None:
        torch.set_num_threads(threads)
    spec = options.attention_spec(attention) or "full"
    net = AutoModel.from_pretrained(model if model is not None else demo_folder(), attention=spec)
    rows = [measure(net, fill, batch, longest, repeats) for fill in (0.2, 0.5, 0.9)]
    names = ("fill", *MODES, "ratio")
    typer.echo(table(names, [[row[name] for name in names] for row in rows]))
    save(target, "padding", batch=batch, longest=longest, repeats=repeats, attention=spec, rows=rows)


@torch.no_grad()
def measure(net: Any, fill: float, batch: int, longest: int, repeats: int) -> dict[str, float]:
    """Medians in real tokens per second, with quartiles, after checking that both runs agree on the real tokens."""
    lengths = torch.tensor(lengths_of_fill(fill, batch, longest))
    mask = (torch.arange(longest) < lengths[:, None]).long()  # (B, T)
    ids = torch.randint(1, net.config.vocab_size, mask.shape, generator=torch.Generator().manual_seed(1))
    outputs = {mode: net(ids, mask, padding=mode).last_hidden_state[mask.bool()] for mode in MODES}
    error = (outputs["keep"] - outputs["remove"]).abs().max() / outputs["keep"].abs().max()
    if error > 1e-5:  # float32, as in the parity tests
        raise ValueError(f"padded and padding-free runs differ by {error:.1e}: nothing was timed")
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in range(repeats + 1):
        for mode in MODES:
            start = time.perf_counter()
            net(ids, mask, padding=mode)
            seconds[mode].append(time.perf_counter() - start)
    tokens = int(mask.sum())
    row = {"fill": tokens / mask.numel()}
    for mode in MODES:
        timed = quantiles(seconds[mode][1:])  # the first is a warm-up
        row[mode] = tokens / timed["median"]
        row[f"{mode}_low"], row[f"{mode}_high"] = tokens / timed["high"], tokens / timed["low"]
    row["ratio"] = row["remove"] / row["keep"]
    return row


if __name__ == "__main__":
    sys.exit(errors.run(app, "python -m benchmarks.padding"))
