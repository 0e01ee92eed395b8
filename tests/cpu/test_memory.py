"""A prepared model's process takes up again the memory that a batch freed."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")

PROGRAM = """
import resource, sys
import torch
from minitrans import BertConfig, BertModel
from minitrans.cpu import prepare

torch.set_num_threads(1)
if sys.argv[1] == "prepared":
    prepare(BertModel(BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)).eval())

def faults(larger):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(5_000_000 + 250_000 * larger)  # 4883 pages, and 244 more each time
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(*map(faults, range(4)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries manage memory in other ways")
@pytest.mark.skipif(HUGE.exists() and "[always]" in HUGE.read_text(), reason="huge pages leave few faults to count")
@pytest.mark.parametrize(("state", "reused"), [("prepared", True), ("unprepared", False)])
def test_pages_are_faulted_in_once(state: str, reused: bool):
    run = [sys.executable, "-c", PROGRAM, state]
    printed = subprocess.run(run, capture_output=True, text=True, check=True, timeout=120).stdout
    first, *later = map(int, printed.split())
    assert first > 4000
    assert (min(later) < 1000) == reused  # a small block just behind the first can make the second a new one
