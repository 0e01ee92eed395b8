"""The README says nothing that is not so: its example runs, its tables and line counts are those of the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import pytest

from minitrans.attention.registry import BACKENDS, VARIANTS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table(header: str) -> list[list[str]]:
    """The cells of the table whose header row starts so."""
    rows = README[README.index(header) :].splitlines()[2:]
    cells = []
    for row in rows:
        if not row.startswith("|"):
            break
        cells.append([cell.strip() for cell in row.strip("|").split("|")])
    return cells


EXAMPLES = re.findall(r"<!-- executed by tests/test_readme.py -->\n```python\n(.*?)```", README, re.DOTALL)


def test_the_examples_are_found_and_short():
    lengths = [len([line for line in code.splitlines() if line.strip()]) for code in EXAMPLES]
    assert [length <= most for length, most in zip(lengths, (15, 15, 15, 25, 15), strict=True)] == [True] * 5


@pytest.mark.slow
@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_run_offline(code: str, minilm: Path, tmp_path: Path):
    """From a Hugging Face cache that holds the checkpoint under its name, as on a machine that downloaded it once."""
    repository = tmp_path / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2"
    (repository / "refs").mkdir(parents=True)
    (repository / "snapshots").mkdir()
    revision = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs" / "main").write_text(revision)
    (repository / "snapshots" / revision).symlink_to(minilm, target_is_directory=True)
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path),
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    if "check_attention" in code:
        assert re.match(r"\d+ checks passed", done.stdout)
        assert done.stdout.splitlines()[1] == "12 tensor(True)"
        return
    if "look(" in code:
        names = ["pattern", "resid_mid", "resid_mid_norm", "resid_post", "resid_post_sum", "resid_pre"]
        assert done.stdout == f"{names} torch.Size([2, 12, 7, 7]) True\n"
        return
    if "fine_tune" in code:
        learnt, again, told = done.stdout.splitlines()
        assert literal_eval(learnt) == literal_eval(again)
        assert literal_eval(learnt)["accuracy"] == 100
        assert literal_eval(told)[0]["label"] == "good"
        return
    first = [[float(number) for number in re.findall(r"-?\d+\.\d+", line)] for line in done.stdout.splitlines()[:3]]
    assert first[0][1] > first[0][2] + 0.2, "lunch is closer to eating than the sky is"


def test_the_families_are_those_of_the_code():
    from minitrans.families import FAMILIES, HEADS

    told = {row[1].strip("`"): [head.strip() for head in row[2].split(",")] for row in table("| family |")}
    have = {
        family: [head.removeprefix("For") for head in HEADS if head in row.heads] for family, row in FAMILIES.items()
    }
    assert told == have


def test_variants_and_backends_are_those_of_the_code():
    assert [name.strip("` ") for row in table("| attention |") for name in row[0].split(",")] == list(VARIANTS)
    assert [row[0].strip("`") for row in table("| backend |")] == list(BACKENDS)


def test_every_client_is_named_in_its_tests():
    for clients, _, files in table("| client |"):
        texts = [(ROOT / name).read_text(encoding="utf-8") for name in re.findall(r"`(\S+)`", files)]
        assert texts
        for client in re.findall(r"`(\S+)`", clients):
            assert any(client in text for text in texts), client


def test_the_way_from_bert_to_the_softmax():
    """The files are those that a forward enters, with the counts that the README gives."""
    from benchmarks.structure import forward

    rows = [(row[0].strip("`"), int(row[1])) for row in table("| file | lines |")]
    assert dict(rows) == {
        name: len((ROOT / "minitrans" / name).read_text(encoding="utf-8").splitlines()) for name, _ in rows
    }
    entered = forward()["padded"]
    assert {name.removeprefix("minitrans.").replace(".", "/") + ".py" for name in entered} == {name for name, _ in rows}
    told = re.search(r"it executes (\d+) lines", README)
    assert told is not None
    assert sum(entered.values()) == int(told[1])
    assert "softmax(scores" in (ROOT / "minitrans/attention/eager.py").read_text(encoding="utf-8")


def test_every_rule_of_the_code_is_explained_and_proved():
    rule = re.compile(r"\b([ABCDEGMNPRSTVY]\d{1,2}|L[134]|FN1|NB1|RF1|BB[1-3])\b")

    def mentioned(*roots: str) -> set[str]:
        files = [file for root in roots for file in (ROOT / root).rglob("*.py")]
        found = {name for file in files for name in rule.findall(file.read_text(encoding="utf-8"))}
        return found - {"T5", "C64", "V2"}  # models and a type

    told = {row[0] for row in table("| rule |")}
    assert told == mentioned("minitrans", "weights_convert")
    assert told <= mentioned("tests")


def test_every_command_and_target_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make ([a-z]+)", README)) | {"demo", "test"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
