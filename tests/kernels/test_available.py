"""`available` tells the truth and a reason, whatever is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from minitrans_kernels import availability, available

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _not_interpreting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def pretend_triton(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    module = ModuleType("triton")
    module.__version__ = version
    monkeypatch.setitem(sys.modules, "triton", module)
    monkeypatch.setattr(availability, "find_spec", lambda name: object())


def test_without_triton(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(availability, "find_spec", lambda name: None)
    usable, reason = available()
    assert not usable
    assert "pip install 'minitrans[kernels]'" in reason


def test_with_a_triton_that_is_too_old(monkeypatch: pytest.MonkeyPatch):
    pretend_triton(monkeypatch, "3.2.0")
    assert available() == (False, "triton 3.2.0 is older than 3.6")


def test_without_a_device(monkeypatch: pytest.MonkeyPatch):
    pretend_triton(monkeypatch, "3.10.1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    usable, reason = available()
    assert not usable
    assert "sees no CUDA device" in reason


@pytest.mark.parametrize(("capability", "usable"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_with_a_device(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], usable: bool):
    pretend_triton(monkeypatch, "3.7.1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    answer, reason = available()
    assert answer is usable
    assert "a card" in reason


@pytest.mark.parametrize("interpreted", [False, True])
def test_it_agrees_with_what_a_call_does(interpreted: bool):
    """In a fresh process: Triton decides when it decorates whether it interprets."""
    pytest.importorskip("triton")
    probe = (
        "import torch, minitrans_kernels as m\n"
        "from minitrans_kernels.attention import fallback\n"
        "def forbidden(*given): raise SystemExit(3)\n"
        "fallback.forward = forbidden\n"
        "usable, reason = m.available()\n"
        "print(usable, '(TRITON_INTERPRET=1)' in reason, flush=True)\n"
        "x = torch.randn(1, 1, 3, 16)\n"
        "m.attention(x, x, x)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_INTERPRET": "1"} if interpreted else {"CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout.split(), done.returncode) == ([str(interpreted)] * 2, 0 if interpreted else 3), done.stderr
