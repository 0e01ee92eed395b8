"""`train`, `evaluate` and `train-tokenizer`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from minitrans.cli import options
from minitrans.cli.text import show
from minitrans.files import read_json
from minitrans.training.tasks import RECIPES

TASKS = ", ".join(RECIPES)

Task = Annotated[str, typer.Argument(metavar="TASK", help=f"One of {TASKS}.")]
Data = Annotated[
    list[Path],
    typer.Option("--data", metavar="FILE", help="What to learn from; twice for two files of parallel text."),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting; it wins over the file's.")
]


def train(
    task: Task,
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="For the model, checkpoints and logs.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="PATH_OR_NAME", help="Where to start; without it weights are fresh."),
    ] = None,
    dev: Annotated[
        list[Path] | None, typer.Option("--dev", metavar="FILE", help="What to score on, at the end of every epoch.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="DIR", help="Another tokenizer than the model's; of fresh weights, theirs.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings, as TOML or JSON; a table `architecture` of fresh weights."),
    ] = None,
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in DIR.")] = False,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    as_json: options.AsJson = False,
) -> None:
    """Train a model for a task, from a checkpoint or from scratch.

    Settings are the fields of TrainingSettings and of the task's recipe; an unknown one is refused. Under torchrun the same
    command runs on many processes.

    Examples:

        minitrans train classify --data train.tsv --dev dev.tsv -m ./bert -o ./new

        minitrans train tag --data train.conll -m ./bert -o ./ner --set epochs=5

        minitrans train answer --data qa.json -m ./bert -o ./qa --config qa.toml
    """
    from minitrans.training.configuration import configure

    told = configure(task, config, settings or [])
    import torch

    from minitrans.cli.loading import checked_device
    from minitrans.training.fine_tuning import FILE, fine_tune

    if threads is not None:
        torch.set_num_threads(threads)
    report = fine_tune(
        told,
        data,
        out,
        model=model,
        dev=dev or (),
        tokenizer=tokenizer,
        device=str(checked_device(device)),
        resume=resume,
    )
    if int(os.environ.get("RANK", "0")) == 0:
        written = read_json(out / FILE)
        besides = {name: written[name] for name in ("seconds", "tokens_per_second")}
        show([{"steps": report.steps, **besides, **report.metrics}], as_json=as_json)


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder of minitrans train, or any checkpoint.")],
    data: Data,
    task: Annotated[
        str | None, typer.Option(metavar="TASK", help=f"For a checkpoint that does not say: {TASKS}.")
    ] = None,
    settings: Settings = None,
    device: options.Device = "cpu",
    threads: options.Threads = None,
    as_json: options.AsJson = False,
) -> None:
    """Score a model on files, as in its training. Columns: score, value; shares and correlations are of 100.

    Examples:

        minitrans evaluate ./sentiment --data test.tsv

        minitrans evaluate ./qa --task answer --data dev-v2.0.json
    """
    import torch

    from minitrans.cli.loading import checked_device
    from minitrans.training.configuration import parse
    from minitrans.training.fine_tuning import evaluate_checkpoint

    if threads is not None:
        torch.set_num_threads(threads)
    found = evaluate_checkpoint(model, data, task=task, device=str(checked_device(device)), **parse(settings or []))
    show([{"score": name, "value": value} for name, value in found.items()], as_json=as_json)


def train_tokenizer(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Texts, UTF-8; .gz too.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="For the tokenizer's files.")],
    kind: Annotated[
        str, typer.Option(help="wordpiece (as BERT), byte-bpe (as RoBERTa), sentencepiece (as T5).")
    ] = "wordpiece",
    vocab_size: Annotated[
        int, typer.Option("--vocab-size", min=1, help="Tokens at most, special ones included.")
    ] = 8000,
    lower_case: Annotated[bool, typer.Option("--lower-case", help="Read everything in lower case.")] = False,
) -> None:
    """Learn a vocabulary from texts, for a model to train from scratch.

    Examples:

        minitrans train-tokenizer corpus.txt --out ./words

        minitrans train-tokenizer a.en a.de --kind sentencepiece --out ./pieces
    """
    from minitrans.training.data.records import read_lines
    from minitrans.training.tokenizers import train_tokenizer as learn

    def texts() -> Iterator[str]:
        for file in files:
            yield from (line for _, line in read_lines(file) if line.strip())

    tokenizer = learn(texts(), out, kind=kind, vocab_size=vocab_size, lower_case=lower_case)
    typer.echo(f"{type(tokenizer).__name__}: {len(tokenizer)} tokens in {out}")
