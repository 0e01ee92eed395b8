"""Training small models from scratch: the trunk, the training, what is compared, and lengths beyond it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from minitrans.lab.bench import Bench
from minitrans.lab.bootstrap import paired
from minitrans.lab.extrapolate import extrapolate
from minitrans.lab.run import Plan
from minitrans.lab.scratch import scratch, step_flops
from minitrans.lab.specs import read_subjects
from minitrans.lab.tasks.table import make_task
from minitrans.lab.tasks.task import Examples, Task
from minitrans.lab.train import hits, questions, score
from minitrans.lab.trunk import Trunk, TrunkSizes, count, equal_sizes
from tests.cli.conftest import Run, run  # noqa: F401 (fixture)

TINY = {"steps": 8, "batch": 4, "width": 8, "hidden": 12, "examples": 6, "length": 16}
COPY = make_task('{"name": "copy", "vocabulary": 8}', {})


def bench() -> Bench:
    return Bench(None, {})


def test_tokens_that_are_asked_are_answered_and_causal_models_look_back_only():
    torch.manual_seed(0)
    model = Trunk(COPY, TrunkSizes(8, 2, 2, 12), "full", 9).double()
    ids = torch.randint(8, (3, 9))
    every = torch.ones(3, 9, dtype=torch.bool)
    scores = model(ids, None, every).view(3, 9, 8)
    some = torch.zeros_like(every)
    some[1, 4] = some[2, 7] = True
    torch.testing.assert_close(model(ids, None, some), torch.stack([scores[1, 4], scores[2, 7]]))
    changed = ids.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 8
    after = model(changed, None, every).view(3, 9, 8)
    torch.testing.assert_close(after[:, :5], scores[:, :5])
    assert not torch.allclose(after[:, 5:], scores[:, 5:])


def test_padding_changes_no_answer_to_a_text():
    torch.manual_seed(0)
    task = make_task("listops", {})
    model = Trunk(task, TrunkSizes(8, 2, 2, 12), "full", 12).double()
    ids = torch.randint(1, 16, (2, 7))
    padded = torch.cat([ids, torch.zeros(2, 5, dtype=torch.int64)], dim=1)
    alone = model(ids, None, ids != 0)
    assert alone.shape == (2, 10)
    torch.testing.assert_close(model(padded, padded != 0, padded != 0), alone)


@pytest.mark.parametrize("spec", ["full", "differential_v1", "hedgehog", "synthesizer_dense"])
def test_parameters_are_equal_to_a_width_of_the_feed_forward_layers(spec: str):
    sizes = TrunkSizes(16, 2, 3, 40)
    goal = count(Trunk(COPY, sizes, "full", 12))
    equal = equal_sizes(COPY, sizes, spec, 12)
    assert (equal.hidden_width != 40) == (spec != "full")
    assert abs(count(Trunk(COPY, equal, spec, 12)) - goal) <= 3 * (2 * 16 + 1) / 2


def test_answers_are_counted_text_by_text():
    class Says(torch.nn.Module):
        def __init__(self, answers: list[int]) -> None:
            super().__init__()
            self.answers, self.weight = answers, torch.nn.Parameter(torch.zeros(1))

        def forward(self, ids: torch.Tensor, real: torch.Tensor | None, asked: torch.Tensor) -> torch.Tensor:
            first = [self.answers.pop(0) for _ in range(int(asked.sum()))]
            return torch.nn.functional.one_hot(torch.tensor(first), 9).float()

    examples = Examples(torch.zeros(3, 2, dtype=torch.int64), torch.tensor([[1, 2], [-100, 3], [4, 5]]))
    right = hits(Says([1, 2, 8, 8, 5]), examples, at_once=2)  # type: ignore[arg-type]
    assert right == [2, 0, 1]
    assert questions(examples) == [2, 1, 2]
    assert score(right, examples) == pytest.approx(60.0)


def test_a_model_learns_what_can_be_learned():
    def draw(number: int, length: int, generator: torch.Generator) -> Examples:
        ids = torch.randint(6, (number, length), generator=generator)
        return Examples(ids, ids)

    echo = Task("echo", 6, 6, False, True, 5, draw, draw)
    from minitrans.lab.scratch import fits
    from minitrans.lab.train import Training

    trainings = [Training(60, 16, 5, rate, enough=99.9) for rate in (0.02, 1e-7)]
    good, bad = fits(echo, TrunkSizes(16, 2, 1, 16), "full", trainings, 20, 5, torch.device("cpu"), 0)
    assert good.curve[-1].score >= 99.9
    assert good.curve[-1].step < 60  # it ends when it knows enough
    assert bad.curve[-1].score < 60
    assert bad.curve[-1].step == 60


def test_rows_hold_each_rate_and_the_best_is_chosen_on_other_examples():
    found = scratch(bench(), read_subjects(["linear"])[0], 3, task="copy", rates="0.01,0.0001", **TINY)  # type: ignore[arg-type]
    again = scratch(bench(), read_subjects(["linear"])[0], 3, task="copy", rates="0.01", **TINY)  # type: ignore[arg-type]
    assert set(found["rates"]) == {"0.01", "0.0001"}
    assert found["rates"]["0.01"]["hits"] == again["rates"]["0.01"]["hits"]
    assert found["score"] == found["rates"][found["rate"]]["score"]
    best = max(found["rates"], key=lambda rate: found["rates"][rate]["curve"][-1][2])
    assert found["rate"] == best
    assert found["questions"] == [8] * 6
    with pytest.raises(ValueError, match="above 0"):
        scratch(bench(), read_subjects(["full"])[0], 0, rates="0.1,-1")


def test_compute_is_equal_by_steps_or_by_operations():
    """What a step takes is written out for softmax attention: six products of each weight and token, and the attention's."""
    length, sizes = 48, TrunkSizes(8, 1, 2, 12)
    model = Trunk(COPY, sizes, "full", length)
    inner = [
        p for name, p in model.named_parameters() if p.dim() == 2 and "embedding" not in name and "head" not in name
    ]
    asked = length // 2  # tokens that the head looks at
    tokens, pairs, head = 2 * length, 2 * length**2, 2 * asked * 8 * COPY.classes
    expected = 6 * (tokens * sum(p.numel() for p in inner) + head + 2 * 2 * pairs * 8)
    assert step_flops(COPY, sizes, "full", 2, length) == expected
    options = {**TINY, "task": "copy", "length": length, "width": 8, "equal": "flops"}
    full, linear = (scratch(bench(), read_subjects([name])[0], 0, **options) for name in ("full", "linear"))  # type: ignore[arg-type]
    assert full["steps"] == 8
    assert linear["steps"] != 8
    assert linear["flops"] == pytest.approx(full["flops"], rel=0.5 / linear["steps"])
    assert linear["rates"]["0.003"]["curve"][-1][0] == linear["steps"]
    with pytest.raises(ValueError, match="expected steps or flops, got 'time'"):
        scratch(bench(), read_subjects(["full"])[0], 0, equal="time")


def test_the_bootstrap_tells_a_difference_from_noise():
    generator = torch.Generator().manual_seed(1)
    asked = [4] * 200
    base = torch.randint(5, (3, 200), generator=generator)
    noise = torch.randint(-1, 2, (3, 200), generator=generator)
    same = paired((base + noise).clamp(0, 4).tolist(), base.tolist(), asked)
    assert same.low < 0 < same.high
    assert same.verdict == "no difference shown"
    worse = paired((base - (torch.rand(3, 200, generator=generator) < 0.3).long()).tolist(), base.tolist(), asked)
    assert -10 < worse.low < worse.found < worse.high < -5  # 0.3 of one answer in four are 7.5 points
    assert worse.verdict == "worse"
    assert paired(base.tolist(), (base - 1).tolist(), asked).found == pytest.approx(25.0)
    one_bad_seed = base.clone()
    one_bad_seed[0] -= 2  # of three seeds one fell: seeds are drawn again too
    assert paired(one_bad_seed.tolist(), base.tolist(), asked).high == pytest.approx(0.0)


def test_interval_of_texts_alone_is_that_of_the_normal_law():
    generator = torch.Generator().manual_seed(2)
    change = torch.randint(2, (1, 400), generator=generator)
    found = paired(change.tolist(), [[0] * 400], [1] * 400)
    deviation = 100 * float(change.double().std()) / 20
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.06)


def test_longer_texts_are_scored_by_the_model_that_saw_short_ones():
    options = {**TINY, "task": "copy", "times": "1,3"}
    found = extrapolate(bench(), read_subjects(["alibi"])[0], 0, **options)  # type: ignore[arg-type]
    assert list(found["scores"]) == ["16", "48"]
    assert found["score"] == found["scores"]["48"]
    assert found["trained"] == 16


def test_from_the_command_line_without_a_model(run: Run, tmp_path: Path):  # noqa: F811
    settings = [f"{section}.{key}={value}" for section in ("scratch", "extrapolate") for key, value in TINY.items()]
    settings += ["scratch.task=copy", "extrapolate.task=copy"]
    words = [word for setting in settings for word in ("--set", setting)]
    done = run(
        "lab", "run", "full", "linear", "-o", tmp_path, "--section", "scratch,extrapolate", "--seeds", "2", *words
    )
    assert done.code == 0, done
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    shown = [(row["variant"], row["section"], row["seed"], row["status"]) for row in rows]
    assert shown == [
        (v, s, seed, "ok") for v in ("full", "linear") for s in ("scratch", "extrapolate") for seed in (0, 1)
    ]
    page = (tmp_path / "report.html").read_text()
    assert "From scratch" in page
    assert "Longer than in training" in page
    assert sum(verdict in page for verdict in ("better", "worse", "no difference shown")) == 1
    configurations = {row["configuration"] for row in rows}
    assert len(configurations) == len(rows)


def test_what_is_missing_is_said(run: Run, tmp_path: Path):  # noqa: F811
    run("lab", "run", "sink", "-o", tmp_path).refused("--data", "stsb-en-test.csv")
    (tmp_path / "stsb-en-test.csv").touch()
    run("lab", "run", "sink", "-o", tmp_path, "--data", tmp_path).refused("--model", "swap")
    scratch_of = ("lab", "run", "sink", "-o", tmp_path, "--section", "scratch", "--set")
    run(*scratch_of, "scratch.task=reviews").refused("--data", "movie_reviews.zip")
    run(*scratch_of, "scratch.task=reviews", "--data", tmp_path).refused("movie_reviews.zip")
    run(*scratch_of, "scratch.task=sums").refused("mqar", "sums")


def test_softmax_attention_is_trained_with_as_many_seeds_where_nobody_asked_for_it():
    sections = ["heal", "scratch"]
    plan = Plan(read_subjects(["sink"]), sections, {}, 3, Path("."), None, "")
    assert [(subject.name, names, seeds) for subject, names, seeds in plan.work] == [
        ("full", ["heal"], 1), ("full", ["scratch"], 3), ("sink", sections, 3),
    ]  # fmt: skip
    assert plan.steps == 4
