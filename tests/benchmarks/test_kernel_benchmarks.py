"""The commands of the kernel benchmarks, on small cases: everything runs, and what is wrong is not timed."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from minitrans_kernels import dropout_mask
from torch import Tensor

from benchmarks import attention, attention_gate, gpu, layers, models, report
from benchmarks.attention_cases import Case, Inputs, cases, make
from benchmarks.attention_providers import PROVIDERS, Prepared, Provider
from benchmarks.layer_cases import LAYERS
from minitrans.cli import errors

CPU = torch.device("cpu")
MODES = {"forward", "backward", "both"}


def result(module: Any, folder: Path, *arguments: str, name: str = "") -> dict[str, Any]:
    assert errors.run(module.app, "benchmark", ["--small", "--results", str(folder), *arguments]) == 0
    (path,) = folder.glob(f"{name}*.json")
    content: dict[str, Any] = json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity
    assert content["finished"]
    assert {"benchmark", "date", "commit", "device", "versions", "settings", "limits", "seconds"} <= content.keys()
    return content


VARIANTS = '''"""Two variants: one that is right and one that forgets the mask."""

from dataclasses import replace

from minitrans import Variant
from minitrans.attention.mask import NO_MASK
from minitrans.attention.variants.sigmoid import Sigmoid


class Doubled(Variant):
    def finish(self, result, x, context):
        return replace(result, output=2 * result.output)


class Careless(Sigmoid):
    def compute(self, query, key, value, rules):
        return super().compute(query, key, value, replace(rules, mask=NO_MASK))
'''


def path_of(folder: Path, suffix: str) -> Path:
    (path,) = folder.glob(f"*.{suffix}")
    return path


def statuses(content: dict[str, Any]) -> set[tuple[str, str]]:
    return {(row["provider"], row["status"]) for row in content["rows"]}


@pytest.mark.skipif(torch.cuda.is_available(), reason="expects what a CPU serves")
class TestAttention:
    def test_every_provider_is_right_where_it_serves(self, tmp_path: Path):
        content = result(attention, tmp_path)
        assert {row["status"] for row in content["rows"]} == {"timed", "unserved", "checked"}
        for case in cases(small=True):
            rows = [row for row in content["rows"] if row["case"] == case.name and row["provider"] == "minitrans"]
            if case.kind == "low_scores":
                (row,) = rows
                assert set(row["not_finite"].values()) == {0}
                continue
            assert {row["mode"] for row in rows} == MODES
            for row in rows:
                assert row["ms"]["low"] <= row["ms"]["median"] <= row["ms"]["high"]
                assert row["tflops"] == pytest.approx(case.flops(row["mode"]) / row["ms"]["median"] / 1e9)
                assert all(row["error"][name] <= row["error_allowed"][name] for name in row["error"])
        assert ("minitrans varlen", "timed") in statuses(content)
        assert ("sdpa math", "timed") in statuses(content)

    def test_a_wrong_or_failing_provider_is_not_timed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        ours = PROVIDERS[0]

        def wrong(inputs: Inputs, dropout_p: float) -> Prepared:
            prepared = ours.prepare(inputs, dropout_p)
            run = prepared.forward
            prepared.forward = lambda: run() * (1 + 1e-4)
            return prepared

        def failing(inputs: Inputs, dropout_p: float) -> Prepared:
            raise RuntimeError("no kernel for this")

        monkeypatch.setattr(
            attention,
            "PROVIDERS",
            (ours, Provider("wrong", ours.refuses, wrong), Provider("failing", ours.refuses, failing)),
        )
        content = result(attention, tmp_path, "--kinds", "dense")
        assert statuses(content) == {("minitrans", "timed"), ("wrong", "wrong"), ("failing", "failed")}

    def test_a_shape_of_ones_own(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        sizes = ["--batch", "3", "--heads", "1", "--length", "40", "--width", "32", "--dtype", "bfloat16"]
        content = result(
            attention, tmp_path / "one", *sizes, "--only", "minitrans,minitrans varlen,sdpa cudnn,sdpa math"
        )
        (key,) = {tuple(row[name] for name in ("case", "B", "H", "S", "K", "dtype")) for row in content["rows"]}
        assert key == ("dense", 3, 1, 40, 32, "bfloat16")
        text = capsys.readouterr().out
        assert "dense B=3 H=1 S=40 K=32 bfloat16" in text
        assert "minitrans varlen: unserved: nothing to pack" in text
        assert "sdpa cudnn: unserved: it needs CUDA" in text
        ours = [line for line in text.splitlines() if line.startswith("| minitrans ")]
        assert len(ours) == 3
        assert all("the PyTorch path" in line and "sdpa math" in line for line in ours)
        content = result(
            attention, tmp_path / "two", "--length", "8", "--kinds", "causal,padded", "--only", "sdpa math"
        )
        assert {(row["case"], row["B"], row["S"]) for row in content["rows"]} == {
            ("causal", 8, 8),
            ("padded 0.5", 8, 8),
        }
        assert errors.run(attention.app, "benchmark", ["--results", str(tmp_path), "--dtype", "int8"]) == 2

    def test_variants_against_a_baseline(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        own = tmp_path / "a_variant.py"
        own.write_text(VARIANTS)
        sizes = [
            "--batch",
            "2",
            "--heads",
            "2",
            "--length",
            "12",
            "--length",
            "20",
            "--width",
            "8",
            "--mask",
            "causal,dropout",
        ]
        chosen = ["sigmoid", '{"name": "linear"}', "fnet", f"{own}:Doubled", f"{own}:Careless"]
        given = [word for each in chosen for word in ("--variant", each)]
        content = result(attention, tmp_path / "out", *sizes, *given)
        rows = content["rows"]
        assert {(row["case"], row["S"]) for row in rows} == {
            (kind, s) for kind in ("causal", "dropout") for s in (12, 20)
        }
        timed = {"full", "sigmoid", "linear", "a_variant:Doubled"}
        assert {row["provider"] for row in rows if row["status"] == "timed"} == timed | {"fnet"}
        assert not any(
            row["status"] == "timed" for row in rows if row["provider"] == "fnet" and row["case"] == "causal"
        )
        (wrong,) = {row["reason"] for row in rows if row["provider"] == "a_variant:Careless"}
        assert "sigmoid, key padding, T = S: what is forbidden changes nothing" in wrong
        assert all(row["error"]["output"] < 1e-5 and "tflops" not in row for row in rows if row["status"] == "timed")
        text = capsys.readouterr().out
        assert "fnet: unserved: attention 'fnet' does not support masks but key padding" in text
        with (path_of(tmp_path / "out", "csv")).open(encoding="utf-8", newline="") as file:
            flat = list(csv.DictReader(file))
        assert len(flat) == len(rows)
        for line, row in zip(flat, rows, strict=True):
            assert (line["provider"], line["mode"], line["status"]) == (row["provider"], row["mode"], row["status"])
            if row["status"] == "timed":
                base = next(
                    each["ms"]["median"] for each in rows if each["provider"] == "full" and each["status"] == "timed"
                    and all(each[key] == row[key] for key in ("case", "S", "mode"))
                )  # fmt: skip
                assert line["baseline"] == "full"
                assert float(line["times"]) == pytest.approx(base / row["ms"]["median"])
            else:
                assert line["reason"] == row["reason"]
                assert not line["ms_median"]
        page = path_of(tmp_path / "out", "md").read_text()
        assert "| a_variant:Doubled |" in page
        assert "## not timed" in page

    def test_a_baseline_of_ones_own(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        sizes = ["--length", "8", "--only", "sdpa math,minitrans", "--baseline"]
        result(attention, tmp_path, *sizes, "minitrans")
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| sdpa math")]
        assert len(lines) == 3
        assert all("| minitrans " in line for line in lines)
        assert errors.run(attention.app, "benchmark", ["--results", str(tmp_path), *sizes, "linear"]) == 2
        assert "expected one of sdpa math, minitrans, got linear" in capsys.readouterr().err

    def test_resuming_measures_nothing_twice(self, tmp_path: Path):
        before = result(attention, tmp_path, "--kinds", "dense", "--only", "sdpa math")
        after = result(attention, tmp_path, "--kinds", "dense,causal", "--only", "sdpa math", "--resume")
        assert after["rows"][: len(before["rows"])] == before["rows"]
        assert len(after["rows"]) == 2 * len(before["rows"])

    @pytest.mark.parametrize("module", [attention, layers], ids=["attention", "layers"])
    def test_filling_caches_writes_nothing(self, module: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        for share in ("0/2", "1/2"):
            assert errors.run(module.app, "benchmark", ["--results", str(tmp_path), "--compile-only", share]) == 0
        assert not list(tmp_path.iterdir())
        assert capsys.readouterr() == ("", "")

    @pytest.mark.parametrize("option", ["--kinds", "--only"])
    def test_unknown_names_are_refused(self, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        assert errors.run(attention.app, "benchmark", ["--results", str(tmp_path), option, "dence"]) == 2
        assert "known: " in capsys.readouterr().err


class TestGate:
    def test_chunks_make_the_whole(self, monkeypatch: pytest.MonkeyPatch):
        for kind in ("bias", "t5", "dropout", "padded"):
            case = Case(kind, 3, 2, 24, 16, torch.float32, 1, 0.5)
            whole = attention_gate.expected(make(case, CPU), dropout=kind == "dropout").exact
            monkeypatch.setattr(attention_gate, "_ELEMENTS_AT_ONCE", 24**2)
            parts = attention_gate.expected(make(case, CPU), dropout=kind == "dropout").exact
            monkeypatch.undo()
            for name, value in whole.items():
                torch.testing.assert_close(parts[name], value, rtol=1e-12, atol=1e-12)

    def test_what_is_not_finite_is_infinitely_wrong(self):
        case = Case("dense", 1, 1, 8, 16, torch.float32, 1)
        wanted = attention_gate.expected(make(case, CPU), dropout=False)
        found = {name: value.clone() for name, value in wanted.exact.items()}
        found["query"][0, 0, 0, 0] = math.nan
        errors = wanted.errors(found)
        assert errors["query"] == math.inf
        assert errors["key"] == 0.0
        assert attention_gate.not_finite(found) == {"output": 0, "query": 1, "key": 0, "value": 0}

    def test_the_share_that_dropout_keeps(self):
        case = Case("dropout", 8, 4, 64, 16, torch.float32, 1)
        inputs = make(case, CPU)
        kept = attention._kept_share(PROVIDERS[0], inputs)
        share = dropout_mask((8, 4, 64, 64), 0.1, inputs.seed).float().mean().item()
        assert kept == pytest.approx(share, abs=0.01)


def test_layers(tmp_path: Path):
    content = result(layers, tmp_path)
    expected = {("minitrans", "timed"), ("torch", "timed"), ("torch, all tokens", "timed")}
    if not torch.cuda.is_available():
        assert statuses(content) == {*expected, ("torch compiled", "unserved")}
    assert {row["case"] for row in content["rows"]} == set(LAYERS)
    for layer in LAYERS:
        assert {row["mode"] for row in content["rows"] if row["case"] == layer and row["status"] == "timed"} == MODES


def test_a_wrong_layer_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    build, p = LAYERS["rms_norm"]

    def wrong(make: Any) -> Any:
        problem = build(make)
        ours = problem.ours
        problem.ours = lambda given, p: ours(given, p) + 1e-4
        return problem

    monkeypatch.setitem(LAYERS, "rms_norm", (wrong, p))
    content = result(layers, tmp_path, "--layers", "rms_norm", "--only", "minitrans,torch")
    assert ("minitrans", "wrong") in statuses(content)
    assert ("torch", "timed") in statuses(content)


class TestModels:
    def test_all_run_and_agree(self, tmp_path: Path):
        pytest.importorskip("transformers")
        content = result(models, tmp_path)
        timed = {(row["provider"], row["mode"]) for row in content["rows"] if row["status"] == "timed"}
        names = (*models.OURS, "transformers eager", "transformers sdpa")
        assert timed >= {(name, mode) for name in names for mode in ("train", "inference")}
        for row in content["rows"]:
            assert row["status"] in ("timed", "unserved")
            if row["status"] == "timed":
                assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["ms"]["median"] * 1e3)

    def test_lengths_are_those_of_the_texts(self):
        for data, mean, longest in (("sst2", 13.3, 66), ("xquad", 180.7, 637)):
            drawn = models.draw_lengths(data, 4000, 1000)
            assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.05)
            assert max(drawn) <= longest
        assert max(models.draw_lengths("xquad", 4000, 384)) == 384

    def test_operations_of_bert_base(self):
        """2 operations a weight and token, and 4 T² D of attention a layer (the usual count, 85 million weights)."""
        config = pytest.importorskip("transformers").BertConfig()
        mask = torch.ones(2, 128, dtype=torch.long)
        batch = models.Batch(mask, mask, torch.full_like(mask, -100))
        weights = 12 * (4 * 768**2 + 2 * 768 * 3072)
        assert models.model_flops(config, batch) == 256 * 2 * weights + 12 * 2 * 4 * 128**2 * 768
        assert models.head_flops(config, batch) == 0


class TestReport:
    def test_tables(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        content = result(attention, tmp_path, "--kinds", "dense,low_scores")
        content["rows"].append(
            {**content["rows"][0], "status": "failed", "reason": "no kernel | at all", "provider": "x"}
        )
        path = tmp_path / "found.json"
        path.write_text(json.dumps(content))
        capsys.readouterr()
        assert errors.run(report.app, "report", [str(path)]) == 0
        text = capsys.readouterr().out
        assert "## forward" in text
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
        heading = next(line for line in lines if line[:2] == ["case", "provider"])
        details = [dict(zip(heading, line, strict=True)) for line in lines if line[:1] == ["dense B=2 H=2 S=24 K=16"]
                   and len(line) == len(heading)]  # fmt: skip
        ours = next(row for row in details if row["provider"] == "minitrans")
        assert ours["runs"] == "the PyTorch path"
        assert ours["baseline"].startswith("sdpa ")
        times = {row["provider"]: float(row["ms"]) for row in details[: len({row["provider"] for row in details})]}
        others = min(ms for provider, ms in times.items() if provider != "minitrans")
        assert float(ours["x times"]) == pytest.approx(others / times["minitrans"], rel=0.01)
        assert "no kernel / at all" in text
        assert "gradient of query" in text
        assert ["minitrans varlen", "all", "unserved", "nothing to pack"] in [line[:4] for line in lines]
        assert text.count("float32") == 1
        assert not re.search(r"\de[-+]\d", text)
        assert f"commit {content['commit']}" in text
        assert errors.run(report.app, "report", [str(path), "--baseline", "sdpa math"]) == 0
        assert "sdpa flash |   1.00" not in capsys.readouterr().out
        assert errors.run(report.app, "report", [str(path), "--baseline", "sdpa moth"]) == 2
        assert "expected one of minitrans" in capsys.readouterr().err

    def test_comparison(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        row = {"case": "a", "provider": "p", "mode": "forward", "status": "timed"}
        slow, fast = ({"low": ms, "median": ms, "high": ms, "runs": 1} for ms in (3.0, 2.0))
        paths = []
        for name, ms in (("before", slow), ("after", fast)):
            paths.append(tmp_path / f"{name}.json")
            paths[-1].write_text(json.dumps({"benchmark": "x", "rows": [{**row, "ms": ms}]}))
        assert errors.run(report.app, "report", [str(path) for path in paths]) == 0
        cells = [cell.strip() for cell in capsys.readouterr().out.split("| a ")[1].splitlines()[0].split("|")]
        assert cells[:-1] == ["", "p", "forward", "3.000", "2.000", "1.50", ""]

    def test_other_files_are_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        path = tmp_path / "x.json"
        path.write_text("{}")
        assert errors.run(report.app, "report", [str(path)]) == 2
        assert "expected the result of a benchmark" in capsys.readouterr().err

    def test_plots(self, tmp_path: Path):
        pytest.importorskip("matplotlib")
        row = {"case": "dense", "provider": "p", "mode": "forward", "status": "timed", "H": 1, "K": 64}
        rows = [{**row, "S": length, "tflops": 1.0 + length} for length in (32, 64)]
        content = {"benchmark": "attention", "device": {"name": "a card"}, "rows": rows}
        (path,) = report.plot(content, tmp_path)
        assert path.stat().st_size > 0


class TestAll:
    @pytest.mark.slow
    def test_one_command(self, tmp_path: Path):
        pytest.importorskip("transformers")
        if torch.cuda.is_available():
            pytest.skip("would take minutes")
        assert errors.run(gpu.app, "gpu", ["--small", "--no-tests", "--results", str(tmp_path)]) == 0
        found = {path.name.partition("-")[0] for path in tmp_path.glob("*.json")}
        assert found == {"attention", "models", "layers", "gpu"}

    def test_a_part_that_loses_the_device_is_started_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        codes = [3, -11, 0]
        commands = []

        def fake(arguments: list[str], seconds: float, log: Path) -> gpu.Ran:
            commands.append(arguments)
            return gpu.Ran(codes[len(commands) - 1], 0.1, "")

        monkeypatch.setattr(gpu, "run", fake)
        ran = gpu.run_benchmark("attention", 60, tmp_path, tmp_path, [])
        assert [one.code for one in ran] == codes
        assert all("--resume" in command for command in commands)
        codes[:] = [1]
        commands.clear()
        assert len(gpu.run_benchmark("attention", 60, tmp_path, tmp_path, [])) == 1  # a bug is not tried again

    def test_a_command_that_takes_too_long_is_stopped(self, tmp_path: Path):
        ran = gpu.run(["-c", "print('begun', flush=True); import time; time.sleep(60)"], 2, tmp_path / "log")
        assert ran.code is None
        assert ran.seconds < 30

    def test_shares_are_the_whole(self):
        assert sum(gpu.SHARES.values()) == pytest.approx(1.0)


def test_tensors_are_what_they_are_called():
    """Prepared providers give every leaf a gradient of its own shape."""
    for case in cases(small=True):
        inputs = make(case, CPU)
        for provider in PROVIDERS:
            if provider.refuses(case, CPU) is None:
                found: dict[str, Tensor] = provider.prepare(inputs, 0.0).results()
                assert {name: value.shape for name, value in found.items() if name != "output"} == {
                    name: leaf.shape for name, leaf in inputs.leaves.items()
                }
