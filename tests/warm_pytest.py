"""Runs pytest many times from one process that has torch and the reference loaded: each run is a fork of it.

It stands in the tree under test and has loaded nothing of it. It reads lines [arguments, file for the output] in JSON, and answers
each with the exit status of its run.
"""

from __future__ import annotations

import json
import os
import sys

sys.path.insert(0, os.getcwd())

import pytest
import torch  # noqa: F401
from transformers import BertModel, Trainer  # noqa: F401  (a name loads what stands behind it)

assert "minitrans" not in sys.modules
for line in sys.stdin:
    arguments, output = json.loads(line)
    child = os.fork()
    if child == 0:
        written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(written, 1)
        os.dup2(written, 2)
        os._exit(pytest.main(arguments))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
