"""What becomes of what goes wrong: a user's mistake is a line and exit code 2, an interruption is silent."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from typer.main import get_command

from minitrans.files import printable

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
READER_GONE = 141  # 128 + SIGPIPE
MAX_ARGUMENTS = 100_000
# the class of what the parser refuses; typer exports only its child
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def run(app: typer.Typer, name: str, arguments: list[str] | None = None) -> int:
    """Runs a command line and returns its exit code; nothing that a user can cause ends in a traceback.

    Args:
        app: the commands.
        name: of the program, for its messages.
        arguments: what follows the name; None = those of the process.
    """
    with _prepared():
        try:
            code = _invoke(app, name, sys.argv[1:] if arguments is None else list(arguments))
            sys.stdout.flush()
        except (KeyboardInterrupt, typer.Abort):
            return INTERRUPTED
        except Exception as error:
            told = exit_code(error)
            if told is None:
                raise
            return told
    return code


def _invoke(app: typer.Typer, name: str, arguments: list[str]) -> int:
    if len(arguments) > MAX_ARGUMENTS:  # the parser's time grows with the square
        raise ValueError(
            f"expected at most {MAX_ARGUMENTS:,} arguments, found {len(arguments):,}; give texts in a file"
        )
    command = get_command(app)
    try:
        with command.make_context(name, arguments) as context:
            command.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    return 0


def exit_code(error: Exception) -> int | None:
    """Tells the user what is wrong, in a line, and gives the exit code; None for what only a bug can raise."""
    if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ESHUTDOWN):
        _abandon_stdout()
        return READER_GONE
    if isinstance(error, _UsageError):
        message = _usage_message(error)
    elif isinstance(error, OSError):
        where = f"{printable(os.fsdecode(error.filename))}: " if isinstance(error.filename, str | bytes) else ""
        message = f"{where}{error.strerror or error or type(error).__name__}"
    elif isinstance(error, ValueError | TypeError):
        message = str(error) or type(error).__name__
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without loading torch
        message = "out of memory; try a smaller --batch-size"
    else:
        return None
    complain(message)
    return 2


def complain(message: str) -> None:
    """A line on standard error, or one for each fault of several."""
    for line in [line for line in message.splitlines() if line.strip()] or [message]:
        typer.echo(f"minitrans: {printable(line, 600)}", err=True)


def note(message: str) -> None:
    """One line on standard error for what is worth knowing and no mistake."""
    typer.echo(f"minitrans: note: {printable(message, 600)}", err=True)


def _usage_message(error: Exception) -> str:
    """The parser's message in lower case, with what is allowed and where to read on."""
    message = str(getattr(error, "format_message", error.__str__)()).strip().rstrip(".")
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "minitrans"
    message, _, nearest = f"{message[:1].lower()}{message[1:]}".partition(" (Possible options: ")
    if nearest:
        message += f". Did you mean {nearest.removesuffix(')')}?"
    return f"{' '.join(message.split())} (see {where} --help)"


@contextmanager
def _prepared() -> Iterator[None]:
    """Every text is printable whatever the locale, and a warning of the library is one line."""
    if sys.stdout is None:  # started with standard output closed
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    logger = logging.getLogger("minitrans")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("minitrans: %(levelname)s: %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def _abandon_stdout() -> None:
    """What is still in the buffer goes nowhere, so that the interpreter has nothing to complain about at its end."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
