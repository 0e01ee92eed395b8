"""Measurements, each a command: `python -m benchmarks.<name> --help`; `results/` holds what they wrote."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("minitrans_kernels") is None:  # a checkout that is not installed, as on a machine lent for an hour
    sys.path.append(str(Path(__file__).resolve().parent.parent / "kernels"))
