"""What only a process of its own shows: closed pipes, signals, locales, terminals, imports."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, process


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def test_a_closed_pipe_is_quiet(body: str, tmp_path: Path):
    many = tmp_path / "many.txt"
    many.write_text("the cat sat\n" * 3000)
    done = shell(f"python -m minitrans embed {many} -m {body} | head -n 1 | cut -c 1-10")
    assert done.stdout == '{"text": "\n'
    assert done.stderr == ""


def test_a_closed_or_full_standard_output(body: str, sentences: Path):
    closed = shell(f"python -m minitrans similar cat {sentences} -m {body} >&-")
    assert (closed.returncode, closed.stderr) == (0, "")
    full = shell(f"python -m minitrans similar cat {sentences} -m {body} > /dev/full")
    assert (full.returncode, full.stderr) == (2, "minitrans: No space left on device\n")


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_any_locale(body: str, tmp_path: Path, locale: dict[str, str]):
    file = tmp_path / "words.txt"
    file.write_text("café au lait\nParis\n", encoding="utf-8")
    done = shell(f"python -m minitrans similar paris {file} -m {body}", **locale)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2
    assert shell("python -m minitrans embed --help", **locale).returncode == 0


def test_no_home_no_writable_folder_and_optimised(body: str, sentences: Path, tmp_path: Path):
    done = process(
        "similar",
        "cat",
        sentences,
        "-m",
        body,
        env={"HOME": "/nonexistent", "PYTHONOPTIMIZE": "1", "TMPDIR": "/nonexistent"},
    )
    assert (done.code, done.err) == (0, "")
    process("similar", "cat", sentences, "-m", "absent", env={"PYTHONOPTIMIZE": "1"}).refused("absent")


def test_a_folder_that_may_not_be_written(body: str, sentences: Path):
    """Nothing is left beside the work, so there is nothing that needs the current folder."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o555)
        probe = (
            "import os, sys; from minitrans.cli.app import main; file, model, folder = sys.argv[1:]; "
            "call = ['similar', 'cat', file, '-m', model]; main(call); os.chdir(folder); "
            "os.getuid() or os.setuid(65534); print(main(call))"  # who is no root cannot import what belongs to root
        )
        public = Path(name).parent / f"{Path(name).name}-texts"
        arguments = [str(shutil.copytree(body, public)), str(shutil.copy(sentences, public))]
        public.chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", probe, *reversed(arguments), name],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        shutil.rmtree(public)
        assert (done.stdout.splitlines()[-1], done.stderr) == ("0", "")
        assert not list(Path(name).iterdir())


@pytest.fixture
def heard() -> Iterator[None]:
    """Tests that a shell started in the background ignore interruptions, and so would every process that they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_an_interruption_is_quiet(body: str, tmp_path: Path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "minitrans", "embed", str(pipe), "-m", body]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    with pipe.open("wb"):  # returns when the command has opened its end, to wait for text
        running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (130, b"", b"")


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_no_library_sees_an_interruption_of_its_start_up(library: str, body: str, sentences: Path, tmp_path: Path):
    """torch ends in an abort: C++ does not know what to do with the exception."""
    (tmp_path / f"{library}.py").write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    print(*range(9))\n"
        "except KeyboardInterrupt:\n    os.abort()\n"
    )
    done = process("similar", "cat", sentences, "-m", body, env={"PYTHONPATH": str(tmp_path)})
    assert (done.code, done.out, done.err) == (130, "", "")


def test_a_terminal_gets_a_table(body: str, sentences: Path):
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "minitrans", "similar", "cat", str(sentences), "-m", body],
        cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE, timeout=120, check=False,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "score" in shown
    assert "┃" in shown


def test_help_and_mistakes_do_not_load_torch():
    probe = (
        "import sys; from minitrans.cli.app import main; "
        "codes = [main(['--help']), main(['similar', '--help']), main(['nonsense'])]; "
        "print(codes, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0, 2] False"
