"""`embed --out`: killed and resumed, shared by processes, or neither: the same bytes, and never half a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minitrans.embedding.jobs import writers
from minitrans.embedding.jobs.job import local_device
from tests.cli.conftest import ROOT, WORDS, process
from tests.embedding.conftest import sentence_folder

TEXTS = 4  # in a window, here


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minitrans.embedding.batching.MAX_TEXTS", TEXTS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """22 lines: six windows."""
    path = tmp_path / "lines.txt"
    lines = [" ".join(WORDS[5 + (i * j) % 30] for j in range(1, 2 + i % 7)) for i in range(21)]
    path.write_bytes("\r\n".join(["\ufeffnaïve café", *lines]).encode())
    return path


@pytest.fixture
def whole(file: Path, body: str, tmp_path: Path, run) -> bytes:
    """The file of the unbroken run."""
    assert run("embed", file, "-m", body, "-o", tmp_path / "whole.npy").code == 0
    return (tmp_path / "whole.npy").read_bytes()


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_every_format_holds_the_same(file: Path, body: str, tmp_path: Path, run):
    vectors, lines = tmp_path / "v.npy", tmp_path / "v.jsonl"
    done = run("embed", file, "-m", body, "-o", vectors)
    assert (done.code, done.out, done.err) == (0, f"{vectors}\t22 vectors of 24 numbers\n", "")
    assert run("embed", file, "-m", body, "-o", lines).code == 0
    found = np.load(vectors)
    assert found.shape == (22, 24)
    np.save(tmp_path / "again.npy", found)
    assert (tmp_path / "again.npy").read_bytes() == vectors.read_bytes()
    rows = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == file.read_text(encoding="utf-8-sig").splitlines()
    assert np.allclose([row["vector"] for row in rows], found, rtol=0, atol=1e-7)
    assert run("embed", file, "-m", body).out == lines.read_text(encoding="utf-8")
    assert files(tmp_path) == {"v.npy", "v.jsonl", "again.npy", "lines.txt"}
    assert not (tmp_path / "v.npy.parts").exists()


def test_parquet(file: Path, body: str, tmp_path: Path, run):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run("embed", file, "-m", body, "-o", tmp_path / "v.parquet").code == 0
    assert run("embed", file, "-m", body, "-o", tmp_path / "v.npy").code == 0
    table = parquet.read_table(tmp_path / "v.parquet")
    assert table.column("text").to_pylist() == file.read_text(encoding="utf-8-sig").splitlines()
    assert np.array_equal(np.array(table.column("vector").to_pylist(), dtype=np.float32), np.load(tmp_path / "v.npy"))


def test_parquet_without_pyarrow(file: Path, body: str, tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("minitrans.embedding.jobs.writers.find_spec", lambda name: None)
    run("embed", file, "-m", body, "-o", tmp_path / "v.parquet").refused("pip install 'minitrans[parquet]'")
    assert files(tmp_path) == {"lines.txt"}


# -- killed and resumed ------------------------------------------------------------------------------------------------

SLOWLY = """
import sys, time
import minitrans.embedding.batching as batching
from minitrans.embedding.jobs import parts
from minitrans.cli.app import main
batching.MAX_TEXTS = 4
write = parts.Parts.write
def slowly(self, *rest):
    write(self, *rest)
    print("window", flush=True)
    time.sleep(float(sys.argv[1]))
parts.Parts.write = slowly
sys.exit(main(sys.argv[2:]))
"""


def test_killed_in_the_middle_and_resumed(file: Path, body: str, tmp_path: Path, whole: bytes, run):
    out = tmp_path / "v.npy"
    command = [sys.executable, "-c", SLOWLY, "60", "embed", str(file), "-m", body, "-o", str(out)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert running.stdout is not None
    assert running.stdout.readline() == b"window\n"
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    assert not out.exists()
    assert files(tmp_path / "v.npy.parts") == {"manifest.json", "00000000.npy"}
    run("embed", file, "-m", body, "-o", out).refused("v.npy.parts: expected no unfinished run", "--resume", "--force")
    stamp = (tmp_path / "v.npy.parts" / "00000000.npy").stat().st_mtime_ns
    seen = []
    write = np.save

    def counted(stream, block):
        seen.append(len(block))
        write(stream, block)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "save", counted)
        assert run("embed", file, "-m", body, "-o", out, "--resume").code == 0
    assert stamp
    assert seen == [4, 4, 4, 4, 2], "the window that was there is not computed again"
    assert out.read_bytes() == whole
    assert not (tmp_path / "v.npy.parts").exists()


def test_killed_at_every_step(file: Path, body: str, tmp_path: Path, run):
    """Before each rename, sync, link and removal: the output is absent or whole, and --resume makes it whole."""
    expected = tmp_path / "expected.npy"
    short = tmp_path / "short.txt"
    short.write_bytes(b"\n".join(file.read_bytes().splitlines()[:6]))  # two windows
    assert run("embed", short, "-m", body, "-o", expected).code == 0
    script = Path(__file__).with_name("kill_embed_at_every_step.py")
    done = subprocess.run(
        [sys.executable, str(script), str(short), body, str(tmp_path / "out"), str(expected)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) >= 25, done.stdout


@pytest.fixture
def half(file: Path, body: str, tmp_path: Path, whole: bytes, run, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output of which rank 1 of 2 has done its windows."""
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        patch.setenv("RANK", "1")
        done = run("embed", file, "-m", body, "-o", tmp_path / "v.npy")
    assert (done.code, done.out, done.err) == (0, "", "")
    return tmp_path / "v.npy"


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (["--pooling", "cls"], "options.pooling"),
        (["--raw"], "options.normalize"),
        (["--prompt", "the "], "options.prompt"),
        (["--batch-size", "3"], "options.batch_size"),
        (["--dtype", "float64"], "weights"),
        (["--backend", "eager"], "options.backend"),
        (["--precision", "float32"], "options.precision"),
        (["--attention", '{"name": "sliding_window", "window": 2}'], "model.config"),
    ],
)
def test_another_option_is_refused(half: Path, file: Path, body: str, run, options: list[str], key: str):
    before = files(half.parent)
    run("embed", file, "-m", body, "-o", half, "--resume", *options).refused("v.npy.parts: ", key, "--force")
    assert files(half.parent) == before


def test_another_input_or_model_is_refused(half: Path, file: Path, body: str, tiny, tmp_path: Path, run):
    text = file.read_bytes()
    file.write_bytes(text.replace(b"cat", b"dog", 1))
    run("embed", file, "-m", body, "-o", half, "--resume").refused("input.sha256", "--force begins anew")
    run("embed", file, "-o", half, "--join").refused("input.sha256")
    file.write_bytes(text + b"\nmore")
    run("embed", file, "-m", body, "-o", half, "--resume").refused("input.lines: expected 22")
    file.write_bytes(text)
    run("embed", file, "-m", tiny("BertForMaskedLM"), "-o", half, "--resume").refused("model.weights")
    other = sentence_folder(body, tmp_path / "m", {"pooling_mode": "cls"})
    run("embed", file, "-m", other, "-o", half, "--resume").refused("model.recipe")
    manifest = half.with_name("v.npy.parts") / "manifest.json"
    stored = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**stored, "versions": {**stored["versions"], "torch": "1.0"}}))
    run("embed", file, "-m", body, "-o", half, "--resume").refused("versions.torch: expected 1.0 as in the run")
    manifest.write_text("{")
    run("embed", file, "-m", body, "-o", half, "--resume").refused("manifest.json: expected JSON")
    manifest.write_text(json.dumps({**stored, "vectors": {"dimension": "x"}}))
    run("embed", file, "-o", half, "--join").refused("vectors: expected a dimension and a dtype")
    assert not half.exists()


def test_force_begins_anew(half: Path, file: Path, body: str, run):
    (half.with_name("v.npy.parts") / "mine.txt").write_text("not to be touched")
    assert run("embed", file, "-m", body, "-o", half, "--raw", "--force").code == 0
    assert not np.allclose(np.linalg.norm(np.load(half), axis=1), 1)
    assert files(half.with_name("v.npy.parts")) == {"mine.txt"}


@pytest.mark.parametrize("kind", ["short", "long", "empty", "no vectors", "transposed", "float64", "absent"])
def test_a_window_that_is_something_else_is_made_again(half: Path, file: Path, body: str, whole: bytes, run, kind: str):
    window = half.with_name("v.npy.parts") / "00000001.npy"
    data, block = window.read_bytes(), np.load(window)
    window.unlink()
    contents = {"short": data[:-1], "long": data + b"x", "empty": b"", "no vectors": b"x" * len(data)}
    if kind in contents:
        window.write_bytes(contents[kind])
    elif kind != "absent":
        np.save(window, {"transposed": block.T, "float64": block.astype(np.float64)}[kind])
    run("embed", file, "-o", half, "--join").refused("expected 6 windows, 4 are missing")
    assert run("embed", file, "-m", body, "-o", half, "--resume").code == 0
    assert half.read_bytes() == whole


def test_the_input_changes_meanwhile(file: Path, body: str, tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch):
    write = np.save

    def and_change(stream, block):
        write(stream, block)
        file.write_bytes(file.read_bytes().replace(b"the", b"who"))

    monkeypatch.setattr(np, "save", and_change)
    run("embed", file, "-m", body, "-o", tmp_path / "v.npy").refused("expected the same text as at the start")
    assert not (tmp_path / "v.npy").exists()


def test_a_full_disk_at_the_end_keeps_the_work(file: Path, body: str, tmp_path: Path, whole: bytes, run):
    out = tmp_path / "v.npy"

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(writers.WRITERS, ".npy", full)
        run("embed", file, "-m", body, "-o", out).refused("No space left on device")
    assert not out.exists()
    assert run("embed", file, "-o", out, "--join").out == f"{out}\t22 vectors of 24 numbers\n"
    assert out.read_bytes() == whole


def test_two_runs_do_not_mix(file: Path, body: str, tmp_path: Path, run):
    out = tmp_path / "v.npy"
    command = [sys.executable, "-c", SLOWLY, "60", "embed", str(file), "-m", body, "-o", str(out)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert running.stdout is not None
    running.stdout.readline()
    try:
        run("embed", file, "-m", body, "-o", out, "--resume").refused("v.npy.parts: another run is writing to it")
        run("embed", file, "-m", body, "-o", out, "--force").refused("another run")
    finally:
        running.kill()
        running.communicate(timeout=60)


def test_a_link_is_followed(file: Path, body: str, tmp_path: Path, whole: bytes, run):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "v.npy").write_bytes(b"old")
    (tmp_path / "link.npy").symlink_to(tmp_path / "real" / "v.npy")
    assert run("embed", file, "-m", body, "-o", tmp_path / "link.npy", "--force").code == 0
    assert (tmp_path / "link.npy").is_symlink()
    assert (tmp_path / "real" / "v.npy").read_bytes() == whole


# -- shared ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("suffix", [".npy", ".jsonl"])
def test_any_number_of_processes_gives_the_same_bytes(
    file: Path, body: str, tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch, size: int, suffix: str
):
    assert run("embed", file, "-m", body, "-o", tmp_path / f"whole{suffix}").code == 0
    out = tmp_path / f"v{suffix}"
    monkeypatch.setenv("WORLD_SIZE", str(size))
    for rank in reversed(range(size)):
        assert not out.exists()
        monkeypatch.setenv("RANK", str(rank))
        assert run("embed", file, "-m", body, "-o", out, "--wait", 5).code == 0
    assert out.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


def test_rank_0_does_not_wait_for_ever(half: Path, file: Path, body: str, whole: bytes, run, monkeypatch):
    half.with_name("v.npy.parts").joinpath("00000003.npy").unlink()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    start = time.monotonic()
    done = run("embed", file, "-m", body, "-o", half, "--wait", "0.3")
    done.refused("expected 6 windows, 1 are missing (of rank 1)", "--resume", "--join")
    assert time.monotonic() - start < 20
    monkeypatch.setenv("RANK", "1")
    assert run("embed", file, "-m", body, "-o", half).code == 0
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert run("embed", file, "-o", half, "--join").code == 0
    assert half.read_bytes() == whole


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE: expected a number from 1 to 100000 in the environment, found 'two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: expected a number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK: expected a number from 0 to 1"),
        ({"RANK": "1"}, "RANK: expected a number from 0 to 0"),
    ],
)
def test_an_environment_that_makes_no_sense(
    file: Path, body: str, tmp_path: Path, run, monkeypatch, environment, message
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run("embed", file, "-m", body, "-o", tmp_path / "v.npy").refused(message)
    assert files(tmp_path) == {"lines.txt"}


def test_what_several_processes_cannot_share(file: Path, body: str, tmp_path: Path, run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    run("embed", "-", "-m", body, "-o", tmp_path / "v.npy", stdin=b"a").refused("every process can read")
    run("embed", file, "-m", body).refused("--out: expected a file")
    monkeypatch.setenv("RANK", "1")
    (tmp_path / "v.npy").write_bytes(b"there")
    late = run("embed", file, "-m", body, "-o", tmp_path / "v.npy")
    assert (late.code, late.err.count("\n")) == (0, 1)
    assert "nothing to do for rank 1" in late.err
    monkeypatch.setenv("RANK", "0")
    run("embed", file, "-m", body, "-o", tmp_path / "v.npy").refused("exists already")


def test_each_process_of_a_machine_has_its_card(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device("cuda") == "cuda"
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert local_device("cuda") == "cuda:1"
    assert local_device("cpu") == "cpu"


@pytest.mark.slow
def test_torchrun(file: Path, body: str, tmp_path: Path):
    assert process("embed", file, "-m", body, "-o", tmp_path / "one.npy").code == 0
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "minitrans",
         "embed", str(file), "-m", body, "-o", str(tmp_path / "two.npy")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.npy").read_bytes() == (tmp_path / "one.npy").read_bytes()
