"""What tests of several processes run in each: gradients of one step by every head, or a small training."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from minitrans.training.data.source import Examples
from minitrans.training.distributed import Ranks
from minitrans.training.loop import backward, train
from minitrans.training.objective import HeadObjective
from minitrans.training.run import Run
from minitrans.training.settings import TrainingSettings
from tests.training.heads import HEADS, examples_of, model_with


def gradients(head: str, ranks: Ranks, parallel: Any, accumulation: int) -> tuple[float, dict[str, torch.Tensor]]:
    """Of one step on all examples: its loss, and the gradient of every parameter that has one."""
    model = model_with(head).train()
    source = Examples(examples_of(head))
    settings = TrainingSettings(batch_size=len(source), accumulation=accumulation, epochs=1, parallel=parallel)
    run = Run(model, HeadObjective(model), source, settings, ranks, None, None, {})
    parts = run.order.parts(list(range(len(source))), ranks.size, accumulation)[ranks.rank]
    loss, _ = backward(run, [run.batch(part or [0]) for part in parts], [bool(part) for part in parts])
    found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return loss, {name: each.full_tensor() if isinstance(each, DTensor) else each for name, each in found.items()}


def all_gradients(out: Path) -> None:
    """Of every head, for copies and for shards, with fewer and with more parts than there are examples."""
    ranks = Ranks(torch.device("cpu"), 60)
    for parallel, accumulation in (("ddp", 4), ("fsdp", 2)):
        for head in HEADS:
            loss, found = gradients(head, ranks, parallel, accumulation)
            if ranks.leads:
                found["loss"] = torch.tensor(loss, dtype=torch.float64)
                save_file(
                    {name: each.contiguous() for name, each in found.items()}, out / f"{head}-{parallel}-{accumulation}"
                )


def small_training(out: Path, told: dict[str, Any]) -> None:
    """With dropout, clipping, an average and an evaluation. `told` may ask for trouble, on one rank at one step:

    {"rank": which, "how": "other data", "full"; or, at the n-th example that is "read", "raise", "wait" or the name of a signal}.
    """
    model = model_with("two losses").float()
    dropout = told.pop("dropout", 0.1)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    trouble = told.pop("trouble", None) or {"rank": -1}
    mine = trouble["rank"] == int(os.environ.get("RANK", "0"))
    resume, here = told.pop("resume", False), trouble["how"] if mine else ""
    examples = examples_of("two losses") * 3
    if here == "other data":
        examples[0] = examples[1]
    if here == "full":
        os.fsync = full
    base = {
        "batch_size": 4,
        "epochs": 2,
        "learning_rate": 1e-2,
        "warmup": 0.2,
        "ema": 0.5,
        "log_every": 1,
        "save_every": 2,
    }
    source = Troubled(examples, trouble)
    settings = TrainingSettings(**{**base, "evaluate_every": 3, "timeout": 20, **told})

    def evaluate(trained: nn.Module) -> dict[str, float]:
        total = sum(each.detach().double().abs().sum() for each in trained.parameters())
        return {"loss": float(total.full_tensor() if isinstance(total, DTensor) else total)}

    report = train(model, HeadObjective(model), source, settings, evaluate=evaluate, out=out, resume=resume)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps({"losses": report.losses, "steps": report.steps, "ended": report.ended, "best": report.best}))


class Troubled(Examples):
    """Examples of which the n-th that is read brings trouble to its rank."""

    def __init__(self, examples: list[dict[str, Any]], trouble: dict[str, Any]) -> None:
        super().__init__(examples)
        self.trouble, self.read = trouble, 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.read += 1
        told = self.trouble
        if told["rank"] == int(os.environ.get("RANK", "0")) and self.read == told.get("read"):
            how = told["how"]
            if how == "raise":
                raise ValueError("the data is bad")
            if how == "wait":
                time.sleep(8)
            os.kill(os.getpid(), getattr(signal, how))
        return super().__getitem__(index)


def full(*given: Any) -> None:
    """What a disk without room says."""
    raise OSError(errno.ENOSPC, "No space left on device")


if __name__ == "__main__":
    small_training(Path(sys.argv[1]), json.loads(sys.argv[2]))
