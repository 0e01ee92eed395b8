"""The entry point of `minitrans`. It imports nothing heavy before it is ready for an interruption."""

from __future__ import annotations


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code.

    0, 1 for a comparison that failed, 2 for a user's mistake, 130 for an interruption, 141 where the reader of a pipe
    went away.
    """
    try:
        from minitrans.cli import guard
        from minitrans.cli.commands import app

        return guard.run(app, "minitrans", arguments)
    except KeyboardInterrupt:
        return 130
