"""The entry point of `minitrans`. It imports nothing heavy before it is ready for an interruption."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_stack
from types import FrameType

INTERRUPTED = 130
# Their own start-up has C++ call Python; an exception there ends in an abort, or in an ImportError about something else.
_DEAF = ("torch", "numpy")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code.

    0, 1 for a comparison that failed, 2 for a user's mistake, 130 for an interruption, 141 where the reader of a pipe
    went away.
    """
    try:
        with _interruptible():
            from minitrans.cli import errors
            from minitrans.cli.commands import app

            return errors.run(app, "minitrans", arguments)
    except KeyboardInterrupt:
        return INTERRUPTED


@contextmanager
def _interruptible() -> Iterator[None]:
    """An interruption is a KeyboardInterrupt, but ends the process at once while a library cannot bear one.

    Nothing is being written then. Left alone: another thread, and a handler that somebody else chose, as a shell does that
    starts a command in the background without interruptions.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupted(number: int, frame: FrameType | None) -> None:
    for each, _ in walk_stack(frame):
        if each.f_code.co_name == "<module>" and each.f_globals.get("__name__", "").partition(".")[0] in _DEAF:
            os._exit(INTERRUPTED)
    raise KeyboardInterrupt
