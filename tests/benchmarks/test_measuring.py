"""How the benchmarks measure and keep what they found."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.attention_cases import Case, cases, make
from benchmarks.measuring import Budget, interleaved_ms, limits, peak_bytes, quantiles
from benchmarks.record import Record, head, result_file, save
from benchmarks.runs import Expected, verdict
from benchmarks.sweep import DeviceLostError, Job, attempt, is_done, run, sweep
from benchmarks.tables import against_baseline
from minitrans.lab.machine import commit

CPU = torch.device("cpu")


def test_calls_take_turns():
    order: list[str] = []
    found = interleaved_ms({name: lambda name=name: order.append(name) for name in "abc"}, CPU, 0.0)
    assert {name: len(values) for name, values in found.items()} == {"a": 7, "b": 7, "c": 7}
    timed = order[6:]  # after a warm-up and a trial of each
    assert [timed[3 * n : 3 * n + 3] for n in range(3)] == [list("abc"), list("bca"), list("cab")]


def test_quantiles():
    assert quantiles([3.0, 1.0, 2.0]) == {"low": 1.5, "median": 2.0, "high": 2.5, "runs": 3}
    assert quantiles([5.0])["median"] == 5.0


def test_limits_are_positive():
    found = limits(CPU, small=True)
    assert found["matmul_tflops"] > 0
    assert found["copy_tb_per_s"] > 0
    assert peak_bytes(lambda: None, CPU) is None


def test_a_record_is_whole_after_every_row(tmp_path: Path):
    path = tmp_path / "new" / "found.json"
    record = Record(path, {"benchmark": "x"})
    record.begin(case="a", provider="p")
    assert json.loads(path.read_text())["in_progress"] == {"case": "a", "provider": "p"}
    record.add({"case": "a", "status": "timed"})
    content = json.loads(path.read_text())
    assert (content["in_progress"], len(content["rows"]), content["finished"]) == (None, 1, False)
    record.finish()
    assert json.loads(path.read_text())["finished"]


def test_a_later_process_goes_on_after_the_culprit(tmp_path: Path):
    path = tmp_path / "found.json"
    record = Record(path, {"benchmark": "x"})
    record.note(limits={"matmul_tflops": 1.0})
    record.add({"case": "a", "provider": "p", "mode": "all", "status": "timed"})
    record.add({"case": "c", "provider": "all", "mode": "all", "status": "cut"})
    record.begin(case="b", provider="p", mode="all")  # and the process dies
    again = Record(path, {"benchmark": "x"}, resume=True)
    assert [(row["case"], row["status"]) for row in again.rows] == [("a", "timed"), ("b", "failed")]
    assert again.limits == {"matmul_tflops": 1.0}
    assert is_done({"case": "a"}, again)
    assert not is_done({"case": "b"}, again)  # its other providers are still to be measured
    assert not is_done({"case": "c"}, again)  # there was no time
    assert not Record(path, {"benchmark": "x"}).rows


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "new"
    paths = [result_file(folder, "cpu_encoders")]
    for n in range(3):
        save(paths[-1], "x", n=n)
        paths.append(result_file(folder, "cpu_encoders"))
    day = head("x")["date"][:10]
    assert [path.name for path in paths] == [f"cpu-encoders-{day}-cpu{end}.json" for end in ("", "-2", "-3", "-4")]
    assert [json.loads(path.read_text())["n"] for path in paths[:3]] == [0, 1, 2]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in paths[:3]]
    assert result_file(folder, "cpu_encoders", resume=True) == paths[2]
    assert result_file(folder, "other", resume=True).name == f"other-{day}-cpu.json"
    assert result_file(paths[0], "cpu_encoders", resume=True) == paths[0]
    with pytest.raises(ValueError, match="exists already"):
        result_file(paths[0], "cpu_encoders")
    save(None, "x")
    assert capsys.readouterr().out == ""


def test_a_result_names_its_commit(tmp_path: Path):
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=b", "-C", str(tmp_path), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert commit(tmp_path) == {"commit": None, "dirty": None}
    git("init", "-q")
    assert commit(tmp_path) == {"commit": None, "dirty": None}
    (tmp_path / "a").write_text("a")
    git("add", "a")
    git("commit", "-qm", "a")
    assert commit(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "x.json").write_text("{}")
    assert commit(tmp_path)["dirty"] is False
    (tmp_path / "b").write_text("b")
    assert commit(tmp_path)["dirty"] is True
    inside = tmp_path / "benchmarks"  # a folder inside of someone's repository
    assert commit(inside) == {"commit": None, "dirty": None}


def test_rows_of_another_commit_are_not_gone_on_with(tmp_path: Path):
    Record(tmp_path / "found.json", {"commit": "a"}).finish()
    with pytest.raises(ValueError, match="expected rows of this commit, found some of a"):
        Record(tmp_path / "found.json", {"commit": "b"}, resume=True)


def test_the_baseline_is_the_fastest_that_is_not_ours():
    times = {"minitrans": 1.0, "minitrans varlen": 4.0, "slow": 3.0, "fast": 2.0}
    rows = [
        {"case": "a", "provider": name, "mode": "forward", "status": "timed", "ms": quantiles([ms])}
        for name, ms in times.items()
    ]
    rows.append({"case": "a", "provider": "absent", "mode": "all", "status": "unserved"})
    rows.append({**rows[0], "case": "b"})  # alone
    found = {(row["case"], row["provider"]): (row.get("baseline"), row.get("times")) for row in against_baseline(rows)}
    assert found == {
        ("a", "minitrans"): ("fast", 2.0), ("a", "minitrans varlen"): ("fast", 0.5), ("a", "slow"): ("fast", 2 / 3),
        ("a", "fast"): ("fast", 1.0), ("b", "minitrans"): (None, None),
    }  # fmt: skip
    assert {row.get("baseline") for row in against_baseline(rows, "slow")} == {"slow", None}


def test_twice_the_error_of_plain_torch_is_allowed_in_gradients_three_times():
    exact = {name: torch.tensor([1.0, -4.0], dtype=torch.float64) for name in ("output", "query")}
    plain = {name: (value + torch.tensor([0.5, 0.0])).float() for name, value in exact.items()}
    wanted = Expected.of(exact, plain, torch.float32)
    rounding = 0.5 * torch.finfo(torch.float32).eps * 4
    assert wanted.allowed == {"output": 2 * (0.5 + rounding), "query": 3 * (0.5 + rounding)}
    assert wanted.errors({"output": plain["output"], "query": exact["query"] * float("nan")}) == {
        "output": 0.5, "query": float("inf"),
    }  # fmt: skip


def test_an_error_may_be_as_large_as_allowed_and_no_larger():
    assert "status" not in verdict({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 0.0})
    for error in (1.01, float("inf"), float("nan")):
        row = verdict({"a": 0.5, "b": error}, {"a": 1.0, "b": 1.0})
        assert row["status"] == "wrong"
        assert row["reason"].startswith("b: error")
        assert row["error"] == {"a": 0.5, "b": 1.01 if error == 1.01 else None}


def job(key: dict[str, str], checks: dict[str, object], begin: object = lambda: None) -> Job:
    def measure(ready: dict[str, object]) -> dict[str, dict[str, dict[str, object]]]:
        return {name: {"both": {"ms": quantiles([1.0])}} for name in ready}

    return Job(key, begin, {"absent": "not here"}, checks, measure)  # type: ignore[arg-type]


def test_only_who_passes_is_timed(tmp_path: Path):
    record = Record(tmp_path / "found.json", {"benchmark": "x"})
    key = {"case": "a"}

    def fail() -> tuple[None, dict[str, str]]:
        raise RuntimeError("no kernel\nfor you")

    checks = {
        "right": lambda: (object(), {"error": 0.0}),
        "wrong": lambda: (None, {"status": "wrong", "reason": "error 1, allowed 0"}),
        "failing": fail,
    }
    run(key, lambda: job(key, checks), record)
    found = {row["provider"]: (row["mode"], row["status"], row.get("reason")) for row in record.rows}
    assert found == {
        "right": ("both", "timed", None),
        "wrong": ("all", "wrong", "error 1, allowed 0"),
        "failing": ("all", "failed", "RuntimeError: no kernel"),
        "absent": ("all", "unserved", "not here"),
    }
    assert is_done(key, record)


def test_a_reference_that_fails_ends_the_case(tmp_path: Path):
    record = Record(tmp_path / "found.json", {"benchmark": "x"})
    key = {"case": "a"}

    def begin() -> None:
        raise MemoryError

    run(key, lambda: job(key, {"right": lambda: (object(), {})}, begin), record)
    assert [row["provider"] for row in record.rows] == ["reference"]
    assert is_done(key, record)


def test_a_lost_device_ends_the_process_and_the_next_one_skips_the_culprit(tmp_path: Path):
    path = tmp_path / "found.json"
    record = Record(path, {"benchmark": "x"})
    key = {"case": "a"}
    calls: list[str] = []

    def lose() -> tuple[None, dict[str, str]]:
        calls.append("lose")
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    checks = {"bad": lose, "good": lambda: (object(), {})}
    with pytest.raises(SystemExit) as stop:
        sweep(record, [(key, lambda: job(key, checks))], Budget.of(60))
    assert stop.value.code == 3
    again = Record(path, {"benchmark": "x"}, resume=True)
    sweep(again, [(key, lambda: job(key, checks))], Budget.of(60))
    assert calls == ["lose"]
    assert {row["provider"]: row["status"] for row in again.rows} == {
        "bad": "failed", "good": "timed", "absent": "unserved",
    }  # fmt: skip


def test_without_time_a_case_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    record = Record(tmp_path / "found.json", {"benchmark": "x"})
    sweep(record, [({"case": "a"}, lambda: pytest.fail("it was run"))], Budget.of(0))
    assert [row["status"] for row in record.rows] == ["cut"]
    assert "cut: no time was left" in capsys.readouterr().out


def test_attempt_reports_what_is_not_fatal(tmp_path: Path):
    record = Record(tmp_path / "found.json", {"benchmark": "x"})

    def work() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    assert not attempt(record, {"case": "a"}, work)

    def lose() -> None:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    with pytest.raises(DeviceLostError):
        attempt(record, {"case": "b"}, lose)
    assert [row["case"] for row in record.rows] == ["a", "b"]


@pytest.mark.parametrize("kind", ["dense", "causal", "window", "padded"])
def test_pairs_are_those_that_are_allowed(kind: str):
    case = Case(kind, 3, 2, 150, 16, torch.float32, 1, 0.5 if kind == "padded" else 1.0)
    at = torch.arange(case.length)
    ahead = at - at[:, None]
    allowed = torch.ones(case.batch, case.length, case.length, dtype=torch.bool)
    if kind == "window":
        allowed &= ahead.abs() <= 64
    if kind == "padded":
        real = make(case, CPU).key_padding
        assert real is not None
        allowed &= real[:, None] & real[:, :, None]
    wanted = 0.5 * allowed.sum() if kind == "causal" else allowed.sum()
    assert case.pairs == wanted
    assert case.flops("both") == 3.5 * case.flops("forward") == 3.5 * 4 * wanted * case.heads * case.width


def test_cases_of_the_gpu():
    found = cases(small=False)
    assert [case.priority for case in found] == sorted(case.priority for case in found)
    assert len({tuple(case.key.values()) for case in found}) == len(found)
    kinds = {"dense", "padded", "causal", "window", "bias", "t5", "dropout", "low_scores"}
    assert {case.kind for case in found} == {case.kind for case in found if case.priority == 1} == kinds
    assert {case.fill for case in found if case.kind == "padded"} == {0.3, 0.5, 0.8}
    dense = {(case.length, case.width) for case in found if case.kind == "dense"}
    assert {2**n for n in range(5, 15)} == {length for length, width in dense if width == 64}
    assert all(case.batch * case.length == 16384 for case in found if case.kind != "low_scores")


def test_inputs_are_random_and_the_same_each_time():
    case = Case("padded", 4, 2, 32, 16, torch.float32, 1, 0.5)
    one, other = make(case, CPU), make(case, CPU)
    for name in one.leaves:
        assert torch.equal(one.leaves[name], other.leaves[name])
        assert one.leaves[name].std() > 0.5
    assert not torch.equal(one.leaves["query"], one.leaves["key"])
    assert one.grad_out.masked_fill(one.real, 0.0).abs().max() == 0  # nothing is asked of padding
