"""Kernel tests: those that interpret Triton need a process of their own, because `triton.jit` decides when it decorates."""

from __future__ import annotations

import os

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETING else ["interpreter/*"]
