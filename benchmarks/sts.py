"""How well cosines of sentence vectors follow human judgement: Spearman's correlation on the STS benchmark.

    python -m benchmarks.sts stsb-en-test.csv

all-MiniLM-L6-v2 with mean pooling is published with 82.03 on the English test file (Cer et al. 2017, "SemEval-2017
Task 1"; figure: sentence-transformers' model card).
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.options import AsJson, Results
from benchmarks.record import RESULTS, result_file, save
from minitrans.cli import errors, options
from minitrans.cli.options import Runtime
from minitrans.cli.text import progress
from minitrans.lab.sts import read_pairs, spearman

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def sts(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of the benchmark, such as stsb-en-test.csv.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="PATH_OR_NAME", help="Default: the extra demo's MiniLM.")
    ] = None,
    as_json: AsJson = False,
    results: Results = RESULTS,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    attention: options.AttentionSpec = None,
    backend: options.Backend = "auto",
    batch_size: options.BatchSize = 64,
    threads: options.Threads = None,
) -> None:
    """Print Spearman's correlation x 100 between cosines and human scores.

    Columns: correlation, pairs, seconds.

    Examples:

        python -m benchmarks.sts stsb-en-test.csv

        python -m benchmarks.sts stsb-en-test.csv --attention mine:MyAttention
    """
    pairs = read_pairs(file)
    from minitrans.cli.demo_steps import demo_folder
    from minitrans.cli.loading import chosen_backend, load
    from minitrans.embedding import Encoder, read_recipe

    source = model if model is not None else str(demo_folder())
    target = result_file(results, "sts", device) if as_json else None
    runtime = Runtime(
        model=source, device=device, dtype=dtype, attention=attention, backend=backend, batch_size=batch_size,
        threads=threads,
    )  # fmt: skip
    recipe = read_recipe(source)
    loaded = load(runtime)
    encoder = Encoder.of(loaded.model, loaded.tokenizer, recipe)
    texts = [pair.first for pair in pairs] + [pair.second for pair in pairs]
    with progress("embedding", len(texts)) as advance:
        start = time.perf_counter()
        vectors = encoder.encode(texts, normalize=True, batch_size=batch_size, show_progress=advance)
        seconds = time.perf_counter() - start
    cosines = (vectors[: len(pairs)] * vectors[len(pairs) :]).sum(dim=-1)  # (pairs)
    correlation = 100 * spearman(cosines.tolist(), [pair.score for pair in pairs])
    typer.echo(f"{correlation:.2f}\t{len(pairs)}\t{seconds:.1f}")
    choice = chosen_backend(loaded.model, backend)
    save(
        target,
        "sts",
        device,
        file=file.name,
        pairs=len(pairs),
        spearman=round(correlation, 4),
        seconds=round(seconds, 3),
        model="all-MiniLM-L6-v2" if model is None else Path(model).name,
        pooling=asdict(recipe),
        attention=loaded.model.config.attention,
        backend={"asked": backend, "chosen": choice.name, "reason": choice.reason},
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        batch_size=batch_size,
    )


if __name__ == "__main__":
    sys.exit(errors.run(app, "python -m benchmarks.sts"))
