"""`convert`, `inspect` and `verify`: what a checkpoint holds, written anew, and compared with the reference."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from minitrans.checkpoints.folding import fold_table, folded
from minitrans.cli.text import busy, framed
from minitrans.files import printable

SOURCE_HELP = "A folder, or a name on the Hugging Face hub (owner/name)."
ClassName = Annotated[
    str | None,
    typer.Option("--as", metavar="CLASS", help="Model class, such as BertForMaskedLM; default: config.json's."),
]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub repository.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never ask the network.")]
AllTensors = Annotated[bool, typer.Option("--all", help="A row for every tensor, layers not folded into one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help=SOURCE_HELP)],
    destination: Annotated[str, typer.Argument(metavar="DST", help="A folder to write; absent or empty.")],
    class_name: ClassName = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16, bfloat16, float64; default: as stored.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Split the weights beyond this size.")] = "5GB",
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds something.")] = False,
    revision: Revision = None,
    offline: Offline = False,
    every: AllTensors = False,
    as_json: AsJson = False,
) -> None:
    """Read a checkpoint of any supported form, check it, and write it anew as safetensors.

    Examples:

        minitrans convert bert-base-uncased clean-bert

        minitrans convert old-checkpoint clean --as BertForMaskedLM --dtype float16
    """
    from minitrans.checkpoints.conversion import convert as run

    with busy(f"converting {printable(source)}"):
        report = run(
            source, destination, class_name=class_name, dtype=dtype, max_shard_size=max_shard_size, force=force,
            revision=revision, local_files_only=offline,
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
        return
    if every:
        table = framed("parameter", "shape", "dtype", "from", "rule", "sha256")
        for row in report.rows:
            rule = f"{row.rule}, tied to {row.tied_to}" if row.tied_to else row.rule
            cells = (row.target, str(list(row.shape)), row.dtype, ", ".join(row.sources), rule, (row.sha256 or "")[:12])
            table.add_row(*(_text(cell) for cell in cells))
    else:
        folds = folded(((row.target, ", ".join(row.sources)), row.shape) for row in report.rows)
        table = fold_table(("in minitrans", "in the file"), folds)
    Console().print(table)
    Console().print(_text(report.summary(), 10_000), soft_wrap=True)


def inspect(
    source: Annotated[str, typer.Argument(metavar="SRC", help=SOURCE_HELP)],
    revision: Revision = None,
    offline: Offline = False,
    every: AllTensors = False,
    as_json: AsJson = False,
) -> None:
    """Show the configuration and the tensors of a checkpoint without reading its weights.

    Examples:

        minitrans inspect bert-base-uncased

        minitrans inspect ./checkpoint --all
    """
    from minitrans.checkpoints.inspection import inspect as run

    with busy(f"inspecting {printable(source)}"):
        found = run(source, revision=revision, local_files_only=offline)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
        return
    config = framed(
        "field", "value", title=f"{found.stored.config.model_type}: {', '.join(found.stored.architectures)}"
    )
    for key, value in found.stored.config.to_dict().items():
        config.add_row(_text(key), _text(value, 60))
    for key, why in found.stored.ignored.items():
        config.add_row(_text(key), _text(f"ignored: {why}", 90))
    dtypes = [str(info.dtype).removeprefix("torch.") for info in found.tensors]
    if every:
        tensors = framed("key", "shape", "dtype", "file")
        for info, dtype in zip(found.tensors, dtypes, strict=True):
            tensors.add_row(_text(info.key), str(list(info.shape)), dtype, _text(info.file))
    else:
        tensors = fold_table(("in the file",), folded(((info.key,), info.shape) for info in found.tensors))
    Console().print(config)
    Console().print(tensors)
    kinds, files = ", ".join(dict.fromkeys(dtypes)), len(found.files)
    Console().print(f"{len(found.tensors)} tensors, {found.num_parameters:,} numbers, {kinds}, {files} file(s)")


def verify(
    source: Annotated[str, typer.Argument(metavar="SRC", help=SOURCE_HELP)],
    class_name: ClassName = None,
    revision: Revision = None,
    offline: Offline = False,
) -> None:
    """Compare with transformers, layer by layer in float64, forward and gradients; exit code 1 if they differ.

    Examples:

        minitrans verify bert-base-uncased

        minitrans verify ./checkpoint --as BertForSequenceClassification
    """
    from minitrans.checkpoints.verification import verify as run

    with busy(f"verifying {printable(source)}"):
        result = run(source, class_name=class_name, revision=revision, local_files_only=offline)
    table = framed("place", "forward", "gradient", title="largest relative error in float64")
    for place, errors in result.by_layer().items():
        style = None if all(error <= result.tolerance for error in errors.values()) else "bold red"
        cells = (f"{errors[kind]:.1e}" if kind in errors else "" for kind in ("forward", "gradient"))
        table.add_row(_text(place), *cells, style=style)
    Console().print(table)
    Console().print(_text(result.summary(), 400), soft_wrap=True)
    if not result.equal:
        raise typer.Exit(1)


def _text(value: object, limit: int = 120) -> Text:
    """Plain text for a cell: nothing in it is markup, no control character survives (line breaks of ours do)."""
    return Text("\n".join(printable(line, limit) for line in str(value).split("\n")))
