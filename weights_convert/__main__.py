"""`python -m weights_convert convert SRC DST | inspect SRC | verify SRC`."""

from __future__ import annotations

import typer

from weights_convert.commands import mount

app = typer.Typer(
    name="weights_convert",
    help="Hugging Face checkpoints: convert, inspect, verify.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
mount(app)

if __name__ == "__main__":
    app(prog_name="python -m weights_convert")
