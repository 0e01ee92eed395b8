"""The two exception classes of the project; both are ValueErrors, so callers need not know them."""

from __future__ import annotations


class NotSupportedError(ValueError):
    """An option that this implementation does not offer was asked for; the message names one that does."""


class CheckpointError(ValueError):
    """A file of a checkpoint is not what it must be; the message names file, tensor or key, what was expected, what was found."""
