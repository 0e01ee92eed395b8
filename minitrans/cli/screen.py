"""Text on a terminal as it is written. What loads torch is imported here, so that help and mistakes need not wait for it."""

from __future__ import annotations

import sys

from minitrans.generation.streaming import TextStreamer


class Screen(TextStreamer):
    """Prints words without the characters that drive a terminal."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """See `TextStreamer`."""
        sys.stdout.write("".join(sign if sign.isprintable() or sign in "\n\t" else "�" for sign in text))
        sys.stdout.write("\n" if stream_end else "")
        sys.stdout.flush()
