"""`available` tells the truth and a reason, whatever is installed."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from minitrans_kernels import availability, available


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
