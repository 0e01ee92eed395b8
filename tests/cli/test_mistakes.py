"""Every mistake of a user: exit code 2, one line that says what to do, and nothing written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from minitrans.cli.commands import COMMANDS
from minitrans.embedding.jobs import lines

FILE, MODEL = "{file}", "{model}"
SIMILAR = ("similar", "cat", FILE, "-m", MODEL)

# arguments -> what the line must say
WRONG: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    ((), ("expected a command: demo, convert", "minitrans --help")),
    (("similr",), ("no such command 'similr'", "'similar'")),
    (("fill_mask",), ("'fill-mask'",)),
    (("xyzzy",), ("no such command 'xyzzy'", "minitrans --help")),
    (("--vrsion",), ("no such option: --vrsion", "--version")),
    (("similar", "--modle", "x"), ("no such option: --modle", "--model", "minitrans similar --help")),
    (("similar",), ("missing argument 'QUERY'",)),
    (("similar", "cat"), ("missing argument 'FILE'",)),
    (("similar", "cat", FILE), ("missing option '--model'",)),
    (("similar", "cat", FILE, "extra", "-m", MODEL), ("unexpected extra argument",)),
    ((*SIMILAR, "--top-k", "0"), ("--top-k",)),
    ((*SIMILAR, "--top-k", "nan"), ("--top-k",)),
    ((*SIMILAR, "--top-k", "1e999"), ("--top-k",)),
    ((*SIMILAR, "--batch-size", "-1"), ("--batch-size",)),
    ((*SIMILAR, "--threads", "0"), ("--threads",)),
    ((*SIMILAR, "--pooling", "sum"), ("pooling: expected one of mean, cls, max", "got 'sum'")),
    ((*SIMILAR, "--device", "tpu9"), ("--device: expected cpu, cuda",)),
    ((*SIMILAR, "--device", "meta"), ("--device: expected cpu, cuda",)),
    ((*SIMILAR, "--dtype", "int8"), ("--dtype: expected one of float32", "'int8'")),
    ((*SIMILAR, "--backend", "magic"), ("unknown attention backend 'magic'", "eager")),
    ((*SIMILAR, "--attention", "magic"), ("unknown attention variant 'magic'", "the nearest is")),
    ((*SIMILAR, "--attention", '{"name":'), ("--attention: expected a name or JSON",)),
    ((*SIMILAR, "--attention", '{"name": "sliding_window", "windw": 2}'), ("sliding_window", "windw")),
    ((*SIMILAR, "--attention", '{"window": 2}'), ("unknown attention variant None",)),
    (("similar", " ", FILE, "-m", MODEL), ("QUERY: expected a text",)),
    (("similar", "a\udcff", FILE, "-m", MODEL), ("QUERY: expected UTF-8",)),
    (("similar", "cat", "absent.txt", "-m", MODEL), ("absent.txt: No such file",)),
    (("similar", "cat", "{folder}", "-m", MODEL), ("{folder}: Is a directory",)),
    (("similar", "cat", FILE, "-m", "no/such/model"), ("no/such/model: no such folder here, and not a name on",)),
    ((*SIMILAR, "--attention", "no_such_module:Mine"), ("no_such_module",)),
    ((*SIMILAR, "--attention", "[1"), ("--attention: expected a name or JSON",)),
    (("similar", "cat", FILE, "-m", "owner/name"), ("owner/name: no such folder here", "offline")),
    (("similar", "cat", FILE, "-m", FILE), ("expected a folder that holds a checkpoint, found a file",)),
    (("similar", "cat", FILE, "-m", "{folder}"), ("{folder}",)),
    (("classify", "-m", MODEL), ("give texts as arguments or one a line with --file", "neither")),
    (("classify", "a", "--file", FILE, "-m", MODEL), ("both",)),
    (("tag", "", "-m", MODEL), ("TEXT: expected a text, found nothing",)),
    (("embed", FILE, "-m", MODEL, "-o", "{folder}/v.csv"), ("expected a name that ends in .npy, .jsonl or .parquet",)),
    (("embed", FILE, "-m", MODEL, "-o", "{folder}/absent/v.npy"), ("expected the folder", "absent")),
    (("embed", FILE, "-m", MODEL, "-o", "{folder}/d.npy"), ("expected a file to write, found a folder",)),
    (("embed", FILE, "-m", MODEL, "-o", "{folder}/old.npy"), ("exists already; --force replaces it",)),
    (("embed", "{folder}/in.jsonl", "-m", MODEL, "-o", "{folder}/in.jsonl", "--force"), ("replace the input",)),
    (("embed", FILE), ("missing option '--model'",)),
    (("embed", FILE, "-m", MODEL, "--resume"), ("--out: expected a file for --resume, --join",)),
    (("embed", FILE, "--join", "-o", "{folder}/v.npy"), ("v.npy.parts: expected the parts of a run, found none",)),
    (("embed", FILE, "--join", "--resume", "-o", "{folder}/v.npy"), ("give --resume or --join, got both",)),
    (("embed", FILE, "-m", MODEL, "--wait", "-1", "-o", "{folder}/v.npy"), ("--wait",)),
    (("embed", FILE, "-m", MODEL, "--wait", "nan", "-o", "{folder}/v.npy"), ("--wait",)),
    (("embed", FILE, "-m", MODEL, "--wait", "1e999", "-o", "{folder}/v.npy"), ("--wait",)),
    (("embed", FILE, "-m", MODEL, "--pooling", "sum", "-o", "{folder}/v.npy"), ("pooling: expected one of mean",)),
    (
        ("embed", FILE, "-m", MODEL, "-o", "{folder}/f.npy"),
        ("f.npy.parts: expected a folder, or nothing, found a file",),
    ),
    (("demo", "--model", "absent"), ("absent",)),
    (("demo", "--query", ""), ("--query: expected a text",)),
    (("demo", "--layer", "-1"), ("--layer",)),
    (("demo", "--out", "{folder}"), ("--force",)),
    (("demo", "--model", MODEL, "--head", "7", "--out", "{folder}/new"), ("--head: expected 0 to 2, got 7",)),
    (("demo", "--model", MODEL, "--layer", "2", "--out", "{folder}/new"), ("--layer: expected 0 to 1, got 2",)),
    (("convert", MODEL, MODEL), ("outside the source",)),
    (("convert", MODEL), ("missing argument 'DST'",)),
    (("inspect", "absent"), ("absent",)),
    (("verify", "absent"), ("absent",)),
]


@pytest.fixture
def folder(tmp_path: Path, sentences: Path) -> Path:
    place = tmp_path / "folder"
    (place / "d.npy").mkdir(parents=True)
    (place / "old.npy").write_bytes(b"old")
    (place / "f.npy.parts").write_bytes(b"mine")
    (place / "in.jsonl").write_text(sentences.read_text())
    return place


def contents(root: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))}


@pytest.mark.parametrize(("arguments", "parts"), WRONG, ids=lambda value: " ".join(value)[:60] or "nothing")
def test_a_mistake_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], parts: tuple[str, ...], body: str, sentences: Path, folder: Path, tmp_path: Path, run,
    request: pytest.FixtureRequest,
):  # fmt: skip
    if arguments[:1] == ("demo",):
        request.getfixturevalue("minilm")
    names = {"{file}": str(sentences), "{model}": body, "{folder}": str(folder)}

    def filled(text: str) -> str:
        for name, value in names.items():
            text = text.replace(name, value)
        return text

    before = contents(tmp_path)
    run(*map(filled, arguments)).refused(*map(filled, parts))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["absent", "./absent", "/no/such", "a/b/c"])
def test_a_missing_folder_is_one_sentence(name: str, sentences: Path, tmp_path: Path, run):
    calls = [
        ("similar", "cat", sentences, "-m", name), ("embed", sentences, "-m", name), ("classify", "a", "-m", name),
        ("inspect", name), ("verify", name), ("convert", name, tmp_path / "x"), ("demo", "--model", name),
    ]  # fmt: skip
    told = {run(*call).err for call in calls}
    assert len(told) == 1, told
    assert told.pop().startswith(f"minitrans: {name}: no such folder here, ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_cuda_where_there_is_none(body: str, sentences: Path, run, device: str):
    run("similar", "cat", sentences, "-m", body, "--device", device).refused(f"--device {device}: no CUDA device")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "standard input: expected one text a line, found nothing"),
        (b"\n \n\t\n", "found nothing"),
        (b"fine\nna\xefve\n", "standard input: line 2: expected UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n\0\0", "expected UTF-8 text"),
        (b"one\ntwo\0\n", "standard input: line 2: expected text, found a NUL"),
        (b"a " * 600_000, "line 1: expected at most 1,000,000 characters, found 1,200,000"),
        (b"cat\n" + b"a" * 5_000_000, "line 2: expected at most 1,000,000 characters, found more"),
    ],
)
def test_standard_input_that_is_no_text(body: str, tmp_path: Path, run, data: bytes, message: str):
    run("embed", "-", "-m", body, "-o", tmp_path / "v.npy", stdin=data).refused(message)
    assert not list(tmp_path.iterdir())


def test_too_much_input_is_refused(body: str, run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lines, "MAX_BYTES", 2**20)
    run("similar", "cat", "/dev/zero", "-m", body).refused("/dev/zero: expected at most 1 MB of text")


def test_windows_line_ends_and_a_byte_order_mark(body: str, run):
    plain = run("embed", "-", "-m", body, stdin=b"cat\ndog\n")
    assert plain.code == 0
    assert run("embed", "-", "-m", body, stdin=b"\xef\xbb\xbfcat\r\ndog").out == plain.out


def test_force_replaces_and_keeps_the_mode(body: str, sentences: Path, folder: Path, run):
    (folder / "old.npy").chmod(0o600)
    assert run("embed", sentences, "-m", body, "-o", folder / "old.npy", "--force").code == 0
    assert (folder / "old.npy").read_bytes().startswith(b"\x93NUMPY")
    assert (folder / "old.npy").stat().st_mode & 0o777 == 0o600
    assert not [path for path in folder.iterdir() if "incomplete" in path.name]


def test_odd_names_of_files(body: str, sentences: Path, tmp_path: Path, run):
    for name in ("with space.npy", "na\u00efve.npy", "line\nbreak.npy", "-dash.npy"):
        done = run("embed", sentences, "-m", body, f"--out={tmp_path / name}")
        assert done.code == 0
        assert done.out.count("\n") == 1
        assert (tmp_path / name).exists()


def test_odd_names_of_inputs(body: str, sentences: Path, tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    plain = run("similar", "cat", sentences, "-m", body)
    for name in ("with space", "na\u00efve", "line\nbreak", "-dash", "[red]x", "\x1b[2J"):
        shutil.copy(sentences, name)
        assert run("similar", "-m", body, "--", "cat", name).out == plain.out
        os.remove(name)
        shutil.copytree(body, name)
        assert run("similar", "cat", sentences, f"--model={name}").out == plain.out
        (Path(name) / "config.json").unlink()
        run("similar", "cat", sentences, f"--model={name}").refused("config.json: expected a file, found nothing")


def test_a_million_arguments(body: str, sentences: Path, run):
    run("similar", "cat", sentences, "-m", body, *["x"] * 10**6).refused("at most 100,000 arguments, found 1,000,005")
    run("similar", "cat", sentences, "-m", body, *["x"] * 10**4).refused("unexpected extra argument")


def test_a_full_disk_leaves_nothing(body: str, sentences: Path, tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch):
    import numpy as np

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(np, "save", full)
    run("embed", sentences, "-m", body, "-o", tmp_path / "v.npy").refused("No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["sentences.txt"]


def test_a_bug_is_not_taken_for_a_mistake(body: str, sentences: Path, run, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr("minitrans.cli.embed.read_lines", broken)
    with pytest.raises(AssertionError, match="ours"):
        run("similar", "cat", sentences, "-m", body)


# -- help --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, run):
    done = run(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert "Examples" in done.out
    assert f"minitrans {command} " in done.out
    assert "python -m weights_convert" not in done.out
    assert run(command, "-h").out == done.out


def test_the_first_page_lists_all_commands(run):
    done = run("--help")
    assert done.code == 0
    assert all(command in done.out for command in COMMANDS)
    assert "Examples: minitrans demo" in done.out
    assert run("--version").out == f"minitrans {__import__('minitrans').__version__}\n"


def test_the_help_names_every_backend_and_dtype(run):
    from minitrans.attention.registry import BACKENDS
    from weights_convert.plan import DTYPES

    words = "".join(run("embed", "--help").out.replace("│", "").split())
    assert all(name in words for name in (*BACKENDS, *DTYPES))
