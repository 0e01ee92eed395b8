"""Trainings that are killed, starved, misled or go astray: each goes on bit for bit, or refuses and says why. One row a case."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from minitrans.errors import CheckpointError
from minitrans.training import checkpoints
from minitrans.training.checkpoints import Checkpoints
from minitrans.training.data.source import Examples
from minitrans.training.distributed import Ranks
from minitrans.training.loop import Report, train
from minitrans.training.objective import HeadObjective
from minitrans.training.precision import NonFiniteError
from minitrans.training.settings import TrainingSettings
from minitrans.training.stopping import Best
from tests.training.heads import examples_of, model_with

CPU = Ranks(torch.device("cpu"), 60)
LAST = 10  # steps of the training below


class Watched(Examples):
    """Calls a function before an example is read, with the count of reads so far."""

    def __init__(self, examples: list[dict[str, Any]], before: Callable[[int], None] = lambda count: None) -> None:
        super().__init__(examples)
        self.before, self.count = before, 0

    def __getitem__(self, index: int) -> Any:
        self.count += 1
        self.before(self.count)
        return super().__getitem__(index)


def run(
    out: Path | None, *, resume: bool = False, before: Any = lambda count: None, head: str = "two losses",
    examples: Any = None, model: Any = None, identity: Any = None, evaluate: Any = None, **told: Any,
) -> tuple[Report, nn.Module]:  # fmt: skip
    """18 examples in steps of 4, two epochs, with dropout, an average and an evaluation of every third step."""
    if model is None:
        model = model_with(head).float()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.1
    base = {"batch_size": 4, "epochs": 2, "learning_rate": 1e-2, "ema": 0.5, "save_every": 2, "evaluate_every": 3}
    source = Watched(examples_of(head) * 3 if examples is None else examples, before)
    settings = TrainingSettings(**{**base, **told})  # type: ignore[arg-type]
    look = evaluate or (lambda trained: {"loss": float(sum(each.abs().sum() for each in trained.parameters()))})
    done = train(
        model, HeadObjective(model), source, settings, out=out, resume=resume, identity=identity, evaluate=look
    )
    return done, model


def held(out: Path, step: int = LAST) -> dict[str, Tensor]:
    """All tensors of a checkpoint: weights, moments, the average."""
    return {
        name: each
        for path in (out / f"step-{step:08d}").glob("*.safetensors")
        for name, each in load_file(path).items()
    }


def require_equal(one: Path, other: Path) -> None:
    """Bit for bit, and all but the hashes of files that facts say."""
    ours, theirs = held(one), held(other)
    assert ours.keys() == theirs.keys()
    assert any(name.startswith("exp_avg_sq.") for name in ours)
    assert any(name.startswith("average.") for name in ours)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    facts = [json.loads((each / f"step-{LAST:08d}" / "training.json").read_text()) for each in (one, other)]
    assert {**facts[0], "files": None} == {**facts[1], "files": None}


def killed(told: Callable[[], None]) -> int:
    """Runs in a process of its own, that ends by a signal or with a status: which."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            told()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole")
    report, _ = run(out)
    assert report.steps == LAST
    return out


def test_k19_a_kill_at_a_random_moment(tmp_path: Path, whole: Path) -> None:
    """Reads, evaluations, and every call that makes a checkpoint durable are moments; a run that is killed often gets there."""
    moments = 0

    def count(*given: Any, **options: Any) -> None:
        nonlocal moments
        moments += 1

    def watched(then: Callable[..., None]) -> Iterator[Any]:
        for name in ("fsync", "rename", "replace"):
            real = getattr(os, name)
            yield name, lambda *given, real=real, **options: (then(), real(*given, **options))[1]

    def training(out: Path, then: Callable[..., None], resume: bool) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for name, stand_in in watched(then):
                patch.setattr(os, name, stand_in)

            def look(trained: nn.Module) -> dict[str, float]:
                then()
                return {"loss": float(sum(each.abs().sum() for each in trained.parameters()))}

            run(out, before=then, resume=resume, evaluate=look)

    training(tmp_path / "counted", count, resume=False)
    draw = random.Random(4)
    out, kills = tmp_path / "killed", 0
    for _ in range(12):
        left = draw.randrange(1, moments // 2)

        def kill(*given: Any, left: list[int] = [left], **options: Any) -> None:  # noqa: B006
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        resume = out.exists() and any(out.glob("step-*"))
        status = killed(lambda resume=resume, kill=kill: training(out, kill, resume))  # type: ignore[misc]
        assert status in (0, -signal.SIGKILL)
        kills += status != 0
    assert kills > 3
    run(out, resume=True)
    require_equal(whole, out)


def row_20_resume_twice(out: Path, whole: Path, patch: pytest.MonkeyPatch) -> None:
    for at in (9, 14):

        def stop(count: int, at: int = at) -> None:
            if count == at:
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(SystemExit):
            run(out, before=stop, resume=out.exists())
    run(out, resume=True)
    require_equal(whole, out)


def row_21_a_half_written_newest(out: Path, whole: Path, patch: pytest.MonkeyPatch) -> None:
    """Cut off, or with one bit that is not what it was."""
    said: list[str] = []
    patch.setattr(checkpoints.logger, "warning", lambda text, *given: said.append(text % given))
    for number, damage in enumerate(
        (lambda content: content[:-100], lambda content: content[:-1] + bytes([content[-1] ^ 1]))
    ):
        place = out / str(number)
        shutil.copytree(whole, place)
        damaged = next((place / f"step-{LAST:08d}").glob("*.safetensors"))
        damaged.write_bytes(damage(damaged.read_bytes()))
        run(place, resume=True)
        assert len(said) == number + 1
        assert "step-00000010" in said[-1]
        assert said[-1].endswith("its hash differs; going on from step 8")
        require_equal(whole, place)


def row_22_no_whole_checkpoint(out: Path, whole: Path, patch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="expected a whole checkpoint to go on from: there is none"):
        run(out, resume=True)
    shutil.copytree(whole, out, dirs_exist_ok=True)
    for folder in out.glob("step-*"):
        (folder / "training.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"expected a whole checkpoint to go on from: .*training\.json: expected a file"
    ):
        run(out, resume=True)


def row_23_another_training(out: Path, whole: Path, patch: pytest.MonkeyPatch) -> None:
    shutil.copytree(whole, out)
    others: dict[str, dict[str, Any]] = {
        "seed": {"seed": 1},
        "learning_rate": {"learning_rate": 0.5},
        "data": {"examples": examples_of("two losses") * 4},
        "model": {"head": "masked", "examples": examples_of("two losses") * 3},
        "vocabulary": {"identity": {"vocabulary": "abc"}},
    }
    for key, told in others.items():
        with pytest.raises(
            CheckpointError, match=rf"step-00000010: {key}: the checkpoint was made with .*, this training has"
        ):
            run(out, resume=True, **told)
    with pytest.raises(ValueError, match="has checkpoints already: resume, or train into another folder"):
        run(out)


def row_24_other_moments(out: Path, whole: Path, patch: pytest.MonkeyPatch) -> None:
    shutil.copytree(whole, out)
    kept, tensors = Checkpoints(out, 1, CPU), held(whole)
    name = next(name for name in tensors if name.startswith("exp_avg."))
    for change, words in (
        ({name: torch.zeros(3)}, r"float32 \[3\], found"),
        ({"x": torch.zeros(3)}, "float32 .3., found nothing"),
    ):
        with pytest.raises(CheckpointError, match=words):
            kept.load(LAST, {**tensors, **change})
    del tensors[name]
    with pytest.raises(CheckpointError, match=f"{name}: expected nothing, found torch.float32"):
        kept.load(LAST, tensors)


def row_25_at_the_end_already(out: Path, whole: Path, patch: pytest.MonkeyPatch) -> None:
    shutil.copytree(whole, out)
    report, _ = run(out, resume=True)
    assert (report.steps, report.losses) == (LAST, [])
    require_equal(whole, out)


def row_26_no_number(out: Path, whole: Path, patch: pytest.MonkeyPatch) -> None:
    model = model_with("number")
    examples = examples_of("number")
    examples[2]["labels"] = math.inf
    with pytest.raises(
        NonFiniteError, match=r"step 1: the gradients are not finite .* the loss is inf; it has the examples"
    ):
        run(out, head="number", model=model, examples=examples, batch_size=6)
    found = load_file(next(out.glob("nonfinite-step-00000001-rank-0.safetensors")))
    assert found["0.labels"].max() == math.inf
    assert found["0.input_ids"].shape == (6, 9)
    best = Best("loss", maximize=False, patience=1)
    assert not best.see({"loss": math.nan}, 1)
    assert best.exhausted
    assert best.step is None


def row_27_few_examples(out: Path, whole: Path, patch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="expected at least one example, found none"):
        run(out, examples=[])
    with pytest.raises(ValueError, match="a step of 4 rows is more than the data set has: 1 examples"):
        run(out, examples=examples_of("two losses")[1:2])
    assert run(None, examples=examples_of("two losses")[1:2], batch_size=1)[0].steps == 2


def row_28_no_label(out: Path, whole: Path, patch: pytest.MonkeyPatch) -> None:
    before = model_with("tags")
    examples = [{**each, "labels": [-100] * len(each["input_ids"])} for each in examples_of("tags")]
    report, after = run(None, head="tags", examples=examples, weight_decay=0.0)
    assert set(report.losses) == {0.0}
    assert all(
        torch.equal(one.float(), other) for one, other in zip(before.parameters(), after.parameters(), strict=True)
    )


def row_29_to_32_what_the_door_refuses(out: Path, whole: Path, patch: pytest.MonkeyPatch) -> None:
    wrong = {"labels": 7, "input_ids": [29, 4], "attention_mask": [0] * 3}
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\) or -100"):
        run(None, head="class", examples=[{"input_ids": [4, 5], "labels": wrong["labels"]}] * 4)
    with pytest.raises(ValueError, match="29"):
        run(None, head="class", examples=[{"input_ids": wrong["input_ids"], "labels": 0}] * 4)
    with pytest.raises(ValueError, match="17"):
        run(None, head="class", examples=[{"input_ids": [4] * 17, "labels": 0}] * 4)
    empty = {"input_ids": [4, 5, 6], "attention_mask": wrong["attention_mask"], "labels": 0}
    report, _ = run(None, head="class", examples=[empty, *[{**empty, "attention_mask": [1] * 3}] * 3])
    assert all(math.isfinite(loss) for loss in report.losses)


def row_33_and_36_signals(out: Path, whole: Path, patch: pytest.MonkeyPatch) -> None:
    """Within a step of two micro-batches: it is finished, and saved once."""
    told = {"save_every": 100, "evaluate_every": 100, "accumulation": 2}
    run(out / "whole", **told)
    saves: list[int] = []
    real = Checkpoints.save

    def save(self: Checkpoints, step: int, *given: Any) -> Path:
        saves.append(step)
        return real(self, step, *given)

    patch.setattr(Checkpoints, "save", save)
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        before = signal.getsignal(number)

        def stop(count: int, number: int = number) -> None:
            if count == 11:
                os.kill(os.getpid(), number)

        saves.clear()
        with pytest.raises(SystemExit) as ended:
            run(out / str(status), before=stop, **told)
        assert ended.value.code == status
        assert saves == [4]
        assert signal.getsignal(number) == before
        run(out / str(status), resume=True, **told)
        require_equal(out / "whole", out / str(status))


def row_33_a_second_signal(out: Path, whole: Path, patch: pytest.MonkeyPatch) -> None:
    def stop(count: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    assert killed(lambda: run(out, before=stop) and None) == -signal.SIGTERM  # type: ignore[arg-type, return-value]


def row_34_the_clock_goes_back(out: Path, whole: Path, patch: pytest.MonkeyPatch) -> None:
    now = iter(range(10**6, 0, -1))
    patch.setattr(time, "time", lambda: float(next(now)))
    patch.setattr(time, "perf_counter", lambda: float(next(now)))
    run(out)
    patch.undo()
    require_equal(whole, out)


def row_35_a_full_disk(out: Path, whole: Path, patch: pytest.MonkeyPatch) -> None:
    """The older ones stay, whole; with room the training goes on."""
    shutil.copytree(whole, out)
    for step in (LAST,):
        shutil.rmtree(out / f"step-{step:08d}")
    before = sorted(path.name for path in out.iterdir())

    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        run(out, resume=True, keep=1)
    patch.undo()
    assert sorted(path.name for path in out.iterdir()) == before
    run(out, resume=True)
    require_equal(whole, out)


def row_37_the_scale_of_fp16(out: Path, whole: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("minitrans.training.precision.GROWTH_EVERY", 3)
    patch.setattr("minitrans.training.precision.HIGHEST", 2.0**20)  # too high: the first steps are left out
    run(out / "whole", precision="fp16")

    def stop(count: int) -> None:
        if count == 21:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        run(out / "cut", precision="fp16", before=stop)
    facts = json.loads((out / "cut" / "step-00000006" / "training.json").read_text())
    assert facts["precision"]["scale"] < 2.0**20
    run(out / "cut", precision="fp16", resume=True)
    require_equal(out / "whole", out / "cut")


def row_38_a_pickle(out: Path, whole: Path, patch: pytest.MonkeyPatch) -> None:
    names = {path.suffix for folder in whole.glob("step-*") for path in folder.iterdir()}
    assert names == {".safetensors", ".json"}
    shutil.copytree(whole, out)
    for folder in out.glob("step-*"):
        shard = next(folder.glob("*.safetensors"))
        torch.save({"optimizer": torch.zeros(3)}, shard)
        facts = json.loads((folder / "training.json").read_text())
        facts["files"][shard.name] = checkpoints._hash(shard)
        (folder / "training.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="expected safetensors, found a pickle or zip archive under a wrong name"):
        run(out, resume=True)
    (out / "step-00000010" / ".metadata").write_bytes(b"a pickle that nobody reads")


def row_46_a_port_in_use(out: Path, whole: Path, patch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        told = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
        for name, value in told.items():
            patch.setenv(name, value)
        start = time.monotonic()
        with pytest.raises(RuntimeError, match="in use"):
            Ranks(torch.device("cpu"), 5)
        assert time.monotonic() - start < 30


ROWS = [each for name, each in list(globals().items()) if name.startswith("row_")]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.__name__.removeprefix("row_"))
def test_row(row: Callable[..., None], tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row(tmp_path / "out", whole, monkeypatch)
