"""`lab`: attention variants measured in the same weights."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minitrans.cli import options
from minitrans.cli.errors import note
from minitrans.cli.options import Group, Runtime
from minitrans.cli.text import progress, show
from minitrans.files import printable

if TYPE_CHECKING:
    from minitrans.embedding.encoder import Encoder

lab = typer.Typer(cls=Group, help="Measure attention variants in the same pretrained weights.", no_args_is_help=True)


@lab.callback()
def _lab() -> None:
    """Measure attention variants in the same pretrained weights."""


@lab.command("run", cls=options.Command)
def run(
    variants: Annotated[
        list[str], typer.Argument(metavar="VARIANT...", help="Names, JSON, my.py:MyAttention, module:Class; all.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="For results.jsonl and report.html.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="PATH_OR_NAME", help="A checkpoint; minilm: the extra demo's."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where stsb-en-test.csv and others lie, here or below.")
    ] = None,
    section: Annotated[
        str, typer.Option(help="Of the table in minitrans.lab.sections, with commas; quick; standard.")
    ] = "gate,swap",
    seeds: Annotated[int, typer.Option(min=1, help="How many, where they change anything.")] = 1,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.OPTION=VALUE", help="An option of a section.")
    ] = None,
    device: options.Device = "cpu",
    threads: options.Threads = None,
) -> None:
    """Test each variant, then swap it into the model and score that on the STS benchmark; or train small models with it.

    A variant that fails the gate is reported and not measured. What DIR knows already, by the same code, is not measured
    again, so that a run that was stopped goes on. Columns: variant, section, seed, status, score, cosine, seconds.

    Examples:

        minitrans lab run sigmoid sink --model minilm --data ./data --out ./found

        minitrans lab run my.py:MyAttention all -m minilm --data ./data -o ./found --section gate,swap,layers

        minitrans lab run full linear -o ./recall --section scratch --seeds 3 --set scratch.task=mqar
    """
    from minitrans.lab.sections import find_files, read_options, read_sections

    wanted, of_suite = read_sections(section)
    from minitrans.cli.loading import checked_device
    from minitrans.lab.bench import Bench
    from minitrans.lab.report import write_report
    from minitrans.lab.run import Plan
    from minitrans.lab.run import run as run_plan
    from minitrans.lab.specs import read_subjects

    words = ["minitrans", "lab", "run", *variants, "--out", str(out), "--section", section]
    words += [] if model is None else ["--model", model]
    words += [] if data is None else ["--data", str(data)]
    words += ["--seeds", str(seeds), "--device", device]
    words += [word for setting in settings or [] for word in ("--set", setting)]
    words += [] if threads is None else ["--threads", str(threads)]
    options_of = read_options([*of_suite, *(settings or [])])
    plan = Plan(read_subjects(variants), wanted, options_of, seeds, out, model, shlex.join(words))
    files = find_files(wanted, data, options_of)
    bench = Bench(_encoder(wanted, model, device, threads), files, device=checked_device(device))
    with progress("measuring", plan.steps) as advance:
        for row in run_plan(plan, bench, advance):
            shown = ("variant", "section", "seed", "status", "score", "cosine", "seconds")
            show([{key: row.get(key) for key in shown}])
            if row["status"] == "failed":
                note(f"{row['variant']}, {row['section']}: {row['reason']}")
    typer.echo(write_report(out))


@lab.command("compare", cls=options.Command)
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A folder of results, or a results.jsonl.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    as_json: options.AsJson = False,
) -> None:
    """Say of two results, row by row, whether they differ by more than noise.

    Rows are compared where their configuration is the same: variant, section, options, seed, model and data. The noise is
    that over seeds, or of a paired bootstrap over seeds and texts where the answers to each text were kept. Commits and
    machines of both are named on standard error. Columns: variant, section, seeds, first, second, low, high, verdict.

    Example:

        minitrans lab compare ./before ./after
    """
    from minitrans.lab import compare as comparing

    found = comparing.compare(first, second)
    for place in (first, second):
        for origin in comparing.origins(comparing.read_results(place)):
            note(f"{printable(place)}: {origin}")
    rows = []
    for each in found:
        low, high = each.interval or (None, None)
        row = {"variant": each.variant, "section": each.section, "seeds": each.seeds, "first": each.first}
        rows.append({**row, "second": each.second, "low": low, "high": high, "verdict": each.verdict})
    show(rows, as_json=as_json)


def _encoder(sections: list[str], model: str | None, device: str, threads: int | None) -> Encoder | None:
    """What sections are measured on; None where they make models of their own. Raises ValueError where one is missing."""
    import torch

    from minitrans.cli.demo_steps import demo_folder
    from minitrans.cli.loading import load_encoder
    from minitrans.lab.sections import SECTIONS

    needed = [name for name in sections if SECTIONS[name].of_model]
    if model is None and needed:
        raise ValueError(f"--model: expected one, because these are measured on it: {', '.join(needed)}")
    if model is None or not needed:
        torch.set_num_threads(threads or 1)  # the models made here are small: a second thread costs more than it brings
        return None
    place = str(demo_folder()) if model == "minilm" else model
    return load_encoder(Runtime(model=place, device=device, threads=threads))
