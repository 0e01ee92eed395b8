"""Several processes train as one does: gradients, restarts after kills, other numbers of ranks, and one message when one fails."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from minitrans.training.distributed import Ranks
from minitrans.training.fine_tuning import evaluate_checkpoint, fine_tune
from minitrans.training.tokenizers import train_tokenizer
from tests.training.heads import HEADS
from tests.training.ranks import all_gradients, gradients, small_training
from tests.training.test_recipes import ENCODER, WORDS, classify

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}", "OMP_NUM_THREADS": "1"}


class Done(NamedTuple):
    """What became of processes: how each ended, and what all of them said."""

    statuses: list[int]
    said: str


def forked(folder: Path, ranks: int, work: Callable[[], None]) -> Done:
    """`work` in processes as torchrun starts them, with a store in this one as torchrun's is; without loading torch again."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}  # fmt: skip
    children = []
    for rank in range(ranks):
        said = folder / f"said-{rank}"
        child = os.fork()
        if child == 0:
            os.environ.update(told, RANK=str(rank))
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            sys.stderr = os.fdopen(2, "w", buffering=1)
            torch.set_num_threads(1)
            status = 1
            try:
                work()
                status = 0
            except SystemExit as ended:
                status = int(str(ended.code))
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(status)
        children.append((child, said))
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child, _ in children]
    return Done(statuses, "".join(said.read_text(errors="replace") for _, said in children))


def trained(folder: Path, ranks: int, **told: Any) -> Done:
    """A small training."""
    return forked(folder, ranks, lambda: small_training(folder, told))


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients of every head."""
    folder = tmp_path_factory.mktemp("gradients")
    done = forked(folder, 2, lambda: all_gradients(folder))
    assert done.statuses == [0, 0], done.said
    return folder


@pytest.mark.slow  # starting torch in two processes takes most of it
@pytest.mark.parametrize("head", HEADS)
def test_gradients_are_those_of_one_process(head: str, of_two_ranks: Path) -> None:
    loss, expected = gradients(head, Ranks(torch.device("cpu"), 60), "ddp", 1)
    scale = max(float(each.abs().max()) for each in expected.values())
    for parallel, accumulation in (("ddp", 4), ("fsdp", 2)):
        got = load_file(of_two_ranks / f"{head}-{parallel}-{accumulation}")
        assert float(got.pop("loss")) == pytest.approx(loss, rel=1e-12)
        for name in {*got, *expected}:
            each, other = (of.get(name, torch.zeros((), dtype=torch.float64)) for of in (expected, got))
            words = f"{head} {parallel} {accumulation} {name}"
            # sums in another order round by 1e-16 of their largest term
            torch.testing.assert_close(other, each.expand_as(other), rtol=1e-12, atol=1e-14 * scale, msg=words)


def tensors(out: Path, step: int = 10) -> dict[str, torch.Tensor]:
    """Of a checkpoint, each shard apart."""
    files = sorted((out / f"step-{step:08d}").glob("*.safetensors"))
    return {f"{path.name}: {name}": each for path in files for name, each in load_file(path).items()}


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Of the result."""
    return load_file(out / "model.safetensors")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training on two ranks with shards, without dropout."""
    out = tmp_path_factory.mktemp("sharded")
    done = trained(out, 2, parallel="fsdp", dropout=0.0)
    assert done.statuses == [0, 0], done.said
    return out


def one_process(out: Path, **told: Any) -> None:
    done = trained(out, 1, dropout=0.0, **told)
    assert done.statuses == [0], done.said


def require_near(one: Path, other: Path) -> None:
    for name, each in weights(one).items():
        torch.testing.assert_close(weights(other)[name], each, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_l47_shards_on_two_ranks_equal_one_process(sharded: Path, tmp_path: Path) -> None:
    one_process(tmp_path)
    assert len(tensors(sharded)) > len(tensors(tmp_path))
    require_near(tmp_path, sharded)


@pytest.mark.slow
def test_l41_from_two_ranks_to_one(sharded: Path, tmp_path: Path) -> None:
    shutil.copytree(sharded, tmp_path / "one")
    shutil.rmtree(tmp_path / "one" / "step-00000010")
    one_process(tmp_path / "one", resume=True)
    require_near(sharded, tmp_path / "one")


@pytest.mark.slow
def test_a_recipe_with_shards(tmp_path: Path) -> None:
    """It scores in between and goes on, and saves a model as one process does.

    `eps` is far above the rounding of gradients (1e-8 here), which AdamW would else enlarge where they are as small.
    """
    train_tokenizer(WORDS * 50, tmp_path / "words", vocab_size=200)
    data, out, one = tmp_path / "data.tsv", tmp_path / "out", tmp_path / "one"
    data.write_text(classify(random.Random(1), 24), encoding="utf-8")
    still = {**ENCODER, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    told: dict[str, Any] = {"dev": data, "tokenizer": tmp_path / "words", "architecture": still, "epochs": 2,
                            "learning_rate": 1e-2, "eps": 1e-2, "batch_size": 8}  # fmt: skip

    def learn(folder: Path, **besides: Any) -> None:
        fine_tune("classify", data, folder, **told, **besides)

    learn(one)  # loads for the other two what they would each load
    done = forked(tmp_path, 2, lambda: learn(out, parallel="fsdp"))
    assert done.statuses == [0, 0], done.said
    assert evaluate_checkpoint(out, data) == pytest.approx(json.loads((out / "recipe.json").read_text())["metrics"])
    require_near(one, out)


@pytest.mark.slow
def test_k19_and_l39_a_rank_is_killed(sharded: Path, tmp_path: Path) -> None:
    """In the middle of an epoch; the other one ends too, and the training goes on bit for bit."""
    trouble = {"rank": 1, "read": 7, "how": "SIGKILL"}
    start = time.monotonic()
    done = trained(tmp_path, 2, parallel="fsdp", dropout=0.0, trouble=trouble)
    assert time.monotonic() - start < 60
    assert done.statuses == [1, -signal.SIGKILL]
    assert not (tmp_path / "step-00000010").exists()
    done = trained(tmp_path, 2, parallel="fsdp", dropout=0.0, resume=True)
    assert done.statuses == [0, 0], done.said
    ours, theirs = tensors(tmp_path), tensors(sharded)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


# row: (what happens on rank 1, what the one message says)
TROUBLES = {
    "l40 ranks were told different things": (
        "other data",
        "data is not the same on all ranks: 1 of 2 differ from rank 0",
    ),
    "l43 the disk of one rank is full": ("full", "No space left on device"),
    "one rank fails": ("raise", "ValueError: the data is bad"),
}


@pytest.mark.slow
@pytest.mark.parametrize("row", TROUBLES)
def test_one_message(row: str, tmp_path: Path) -> None:
    """All ranks end, and one of them says why."""
    how, words = TROUBLES[row]
    done = trained(tmp_path, 2, trouble={"rank": 1, "read": 7, "how": how})
    assert done.statuses == [1, 1]
    assert done.said.count("Traceback (most recent call last)") == 1, done.said
    assert words in done.said


@pytest.mark.slow
def test_l44_a_straggler_under_torchrun(tmp_path: Path) -> None:
    """Rank 0 waits for its time, and says so; torchrun ends the other one."""
    told = json.dumps({"timeout": 4, "trouble": {"rank": 1, "read": 7, "how": "wait"}})
    script = [str(ROOT / "tests" / "training" / "ranks.py"), str(tmp_path), told]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *script]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    tracebacks = [line for line in done.stderr.splitlines() if line.startswith("[rank") and "Traceback" in line]
    assert len(tracebacks) == 1, done.stderr
    assert "Timed out waiting 4000ms" in done.stderr
