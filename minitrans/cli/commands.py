"""The commands of `minitrans`, put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from minitrans import __version__
from minitrans.cli.checkpoints import convert, inspect, verify
from minitrans.cli.demo import demo
from minitrans.cli.embed import embed, similar
from minitrans.cli.generate import generate
from minitrans.cli.lab import lab
from minitrans.cli.options import Command, Group
from minitrans.cli.tasks import answer, classify, fill_mask, tag
from minitrans.cli.text_to_text import summarize, translate
from minitrans.cli.train import evaluate, train, train_tokenizer
from minitrans.cli.view import attention, view

app = typer.Typer(
    name="minitrans",
    cls=Group,
    help="The Transformer you can read, trust and race. Start with: minitrans demo",
    epilog="Examples: minitrans demo; minitrans convert bert-base-uncased ./bert; minitrans similar --help",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "convert": convert,
    "inspect": inspect,
    "verify": verify,
    "embed": embed,
    "similar": similar,
    "fill-mask": fill_mask,
    "classify": classify,
    "tag": tag,
    "answer": answer,
    "generate": generate,
    "view": view,
    "attention": attention,
    "translate": translate,
    "summarize": summarize,
    "train": train,
    "evaluate": evaluate,
    "train-tokenizer": train_tokenizer,
}
PANELS = {
    "demo": "Start here",
    **dict.fromkeys(("convert", "inspect", "verify"), "Checkpoints"),
    **dict.fromkeys(("train", "evaluate", "train-tokenizer"), "Training"),
}


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"minitrans {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def minitrans(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The Transformer you can read, trust and race. Start with: minitrans demo."""
    if context.invoked_subcommand is None:
        raise ValueError(f"expected a command: {', '.join(COMMANDS)}; see minitrans --help")


for _name, _command in COMMANDS.items():
    app.command(_name, cls=Command, rich_help_panel=PANELS.get(_name, "Models at work"))(_command)
app.add_typer(lab, name="lab", rich_help_panel="Models at work")
