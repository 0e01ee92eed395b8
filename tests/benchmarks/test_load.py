"""The benchmark of loading: its fields, and that what it calls reading reads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import load

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.slow
def test_its_rows(
    tiny_bert: Path, command: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = {way: timed for way, timed in load.WAYS.items() if not way.startswith("transformers")}
    monkeypatch.setattr(load, "WAYS", ours)  # importing the reference takes long
    found = command(load, "--model", tiny_bert, "--rounds", 1, "--threads", 2)
    size = (tiny_bert / "model.safetensors").stat().st_size
    assert (found["bytes"], found["rounds"], found["threads"]) == (size, 1, 2)
    assert found["ways"].keys() == {"read the file", "read the file, in threads", "minitrans"}
    for way, row in found["ways"].items():
        assert 0 < row["best"] <= row["seconds"] < 60, way
        assert row["ratio"] > 0
        assert row["cpu_seconds"] >= 0
    assert found["ways"]["read the file"]["ratio"] == 1
    assert "MB beyond the file" in capsys.readouterr().out


def test_every_byte_is_read(tmp_path: Path) -> None:
    scope: dict[str, Any] = {}
    exec(load.READERS, scope)
    path = tmp_path / "bytes"
    for size in (1, 2, 7, 100_003):
        path.write_bytes(bytes(n % 251 for n in range(size)))
        assert scope["read_in_threads"](str(path)).tobytes() == path.read_bytes()


def test_memory_is_measured_from_where_it_stood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grow = "value = bytearray(50_000_000); value[::4096] = b'1' * len(value[::4096])"
    monkeypatch.setitem(load.WAYS, "fifty megabytes", ("before = bytearray(200_000_000); del before", grow))
    measured = load.measure("fifty megabytes", tmp_path, tmp_path, 1)
    assert 49e6 < measured["peak"] < 60e6
