"""Several processes train as one does: gradients, restarts after kills, other numbers of ranks, and one message when one fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from minitrans.training.distributed import Ranks
from tests.training.heads import HEADS
from tests.training.ranks import gradients

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}", "OMP_NUM_THREADS": "1"}


def launch(ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script of tests, as the only process or under torchrun."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, str(ROOT / "tests" / "training" / "ranks.py"), *arguments]
    return subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def trained(ranks: int, out: Path, **told: Any) -> subprocess.CompletedProcess[str]:
    """A small training."""
    return launch(ranks, "train", str(out), json.dumps(told))


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients of every head."""
    folder = tmp_path_factory.mktemp("gradients")
    done = launch(2, "gradients", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow  # starting torch in two processes takes most of it
@pytest.mark.parametrize("head", HEADS)
def test_gradients_are_those_of_one_process(head: str, of_two_ranks: Path) -> None:
    loss, expected = gradients(head, Ranks(torch.device("cpu"), 60), "ddp", 1)
    scale = max(float(each.abs().max()) for each in expected.values())
    for parallel, accumulation in (("ddp", 1), ("ddp", 4), ("fsdp", 2)):
        got = load_file(of_two_ranks / f"{head}-{parallel}-{accumulation}")
        assert float(got.pop("loss")) == pytest.approx(loss, rel=1e-12)
        for name in {*got, *expected}:
            each, other = (of.get(name, torch.zeros((), dtype=torch.float64)) for of in (expected, got))
            words = f"{head} {parallel} {accumulation} {name}"
            # sums in another order round by 1e-16 of their largest term
            torch.testing.assert_close(other, each.expand_as(other), rtol=1e-12, atol=1e-14 * scale, msg=words)
