"""Steps of fine-tuning, ours without padding against transformers' with it, in one loop; and what memory a step takes.

    python -m benchmarks.training

Both models have the weights of all-MiniLM-L6-v2 (extra `demo`) or any folder, a classifier on top and no dropout; each step is
forward, loss, backward, clipping and torch's AdamW on the same batch, whose lengths are those of a data set
(`lengths.json`), in the order of a plain shuffle. First, in float64, the losses of the two must be equal step by step; then steps
take turns in float32. Rates are real tokens per CPU second of the process, for machines that are shared.
Memory is the most that a fresh process of ours held during steps, less what it held before them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.measuring import memory_mb, quantiles
from benchmarks.models import draw_lengths
from benchmarks.options import AsJson, Results
from benchmarks.record import RESULTS, ROOT, result_file, save
from benchmarks.tables import table
from minitrans.cli import errors, options

app = typer.Typer(add_completion=False)
EQUAL = 1e-9  # relative, of losses in float64: 20 steps of Adam amplify the rounding of 1e-16
MIXES = ("sst2", "xquad")
MEMORY: dict[str, dict[str, Any]] = {
    "a batch at once": {},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "4 micro-batches": {"accumulation": 4},
    "both": {"gradient_checkpointing": True, "accumulation": 4},
}

Step = Callable[[dict[str, Tensor]], float]


@app.command()
def main(
    model: Annotated[str | None, typer.Option(help="A folder; default: the demo checkpoint.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Texts a step.")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of each, for each data set.")] = 10,
    equal_steps: Annotated[int, typer.Option(min=1, help="Steps whose losses must be equal.")] = 20,
    longest: Annotated[int, typer.Option(min=4, help="Longer texts are cut.")] = 256,
    mixes: Annotated[str, typer.Option(help="Of lengths.json, with commas.")] = ",".join(MIXES),
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure memory too.")] = True,
    as_json: AsJson = False,
    results: Results = RESULTS,
    threads: options.Threads = None,
) -> None:
    """Print real tokens per CPU second of training steps, and the memory of a step.

    Examples:

        python -m benchmarks.training

        python -m benchmarks.training --steps 5 --mixes sst2 --no-memory --json
    """
    from minitrans.cli.demo_steps import demo_folder

    target = result_file(results, "training") if as_json else None
    torch.set_num_threads(threads or 1)
    folder = model if model is not None else str(demo_folder())
    gap = largest_gap(folder, draw(mixes.split(",")[0], equal_steps, min(batch, 8), longest))
    typer.echo(f"{equal_steps} losses in float64: the largest relative difference is {gap:.1e}")
    if gap > EQUAL:
        raise ValueError(f"the losses differ by {gap:.1e}: nothing was timed")
    found: dict[str, Any] = {"batch": batch, "steps": steps, "equal_steps": equal_steps, "longest": longest, "gap": gap}
    found |= {"rows": [], "memory": [], "finished": False}
    save(target, "training", **found)  # and after each part: a run that is cut off keeps what it has
    for mix in mixes.split(","):
        found["rows"].append(measure(folder, mix, steps, batch, longest))
        save(target, "training", **found)
    names = ("lengths", "fill", "transformers", "minitrans", "ratio")
    typer.echo(table(names, [[row[name] for name in names] for row in found["rows"]]))
    for name, settings in MEMORY.items() if memory else ():
        found["memory"].append({"step": name, "megabytes": memory_of(folder, settings, batch)})
        save(target, "training", **found)
    if memory:
        typer.echo(table(("step", "megabytes"), [list(row.values()) for row in found["memory"]]))
    save(target, "training", **found | {"finished": True})


def draw(mix: str, count: int, batch: int, longest: int) -> list[dict[str, Tensor]]:
    """Batches of random tokens, each padded to its longest text, with a class for each text."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for lengths in torch.tensor(draw_lengths(mix, count * batch, longest)).view(count, batch):
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()  # (B, T)
        ids = torch.randint(5, 40, mask.shape, generator=generator) * mask
        labels = torch.randint(2, (batch,), generator=generator)
        found.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return found


def both(folder: str, dtype: torch.dtype) -> dict[str, Any]:
    """The two models with the same weights, the classifier's included."""
    import transformers

    import minitrans

    sizes: dict[str, Any] = {"num_labels": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    ours = minitrans.AutoModelForSequenceClassification.from_pretrained(folder, **sizes).to(dtype)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder, **sizes).to(dtype)
    with torch.no_grad():
        theirs.classifier.weight.copy_(ours.classifier.weight)
        theirs.classifier.bias.copy_(ours.classifier.bias)
    ours.padding = "remove"
    return {"transformers": theirs.train(), "minitrans": ours.train()}


def stepper(model: Any) -> Step:
    """The loop's body; gives the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01)

    def step(batch: dict[str, Tensor]) -> float:
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def largest_gap(folder: str, batches: list[dict[str, Tensor]]) -> float:
    """Of the two's losses, step by step, in float64."""
    one, other = (stepper(model) for model in both(folder, torch.float64).values())
    return max(abs(one(batch) - mine) / abs(mine) for batch in batches for mine in [other(batch)])


def measure(folder: str, mix: str, steps: int, batch: int, longest: int) -> dict[str, Any]:
    """Medians with quartiles of both; a step of each in turn, the first of each not counted."""
    takes = {name: stepper(model) for name, model in both(folder, torch.float32).items()}
    rates: dict[str, list[float]] = {name: [] for name in takes}
    batches = draw(mix, steps + 1, batch, longest)
    for number, each in enumerate(batches):
        real = int(each["attention_mask"].sum())
        for name in sorted(takes, reverse=bool(number % 2)):
            start = time.process_time()
            takes[name](each)
            rates[name].append(real / (time.process_time() - start))
    spread = {name: quantiles(found[1:]) for name, found in rates.items()}
    masks = [each["attention_mask"].float() for each in batches]
    row: dict[str, Any] = {
        "lengths": mix,
        "fill": sum(float(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks),
        **{name: found["median"] for name, found in spread.items()},
        "quartiles": {name: [found["low"], found["high"]] for name, found in spread.items()},
    }
    pairs = zip(rates["minitrans"][1:], rates["transformers"][1:], strict=True)
    return {**row, "ratio": statistics.median(mine / theirs for mine, theirs in pairs)}


def memory_of(folder: str, settings: dict[str, Any], batch: int) -> float:
    """Megabytes (2^20) that two steps of `batch` texts of 128 tokens take, in a process of its own."""
    code = f"from benchmarks.training import held; held({folder!r}, {settings!r}, {batch})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return float(json.loads(done.stdout.splitlines()[-1]))


def held(folder: str, settings: dict[str, Any], batch: int, length: int = 128) -> None:
    """Prints the growth of the peak from before the first step; a small step before has what every step shares."""
    from minitrans import AutoModelForSequenceClassification
    from minitrans.training import Examples, HeadObjective, TrainingSettings, train

    torch.set_num_threads(1)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    model.padding = "remove"

    def steps(rows: int, **told: Any) -> None:
        examples = Examples([{"input_ids": [5] * length, "labels": 0} for _ in range(rows)])
        train(model, HeadObjective(model), examples, TrainingSettings(batch_size=rows, max_steps=2, **told))

    steps(1)
    before = _peak()
    steps(batch, **settings)
    sys.stdout.write(json.dumps(_peak() - before) + "\n")


def _peak() -> float:
    """Megabytes (2^20), on Linux. What `getrusage` tells begins at the peak of the process that started this one."""
    return memory_mb()["VmHWM"]


if __name__ == "__main__":
    sys.exit(errors.run(app, "python -m benchmarks.training"))
