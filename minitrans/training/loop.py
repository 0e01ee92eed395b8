"""The loop: forward, loss, backward, step. Everything around these lines has a file of its own beside this one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from minitrans.training.data.order import Order
from minitrans.training.data.source import Source
from minitrans.training.distributed import Ranks, gradient_norm, micro_batch
from minitrans.training.logs import Log
from minitrans.training.objective import Batch, Objective, seed_from, tokens_in
from minitrans.training.optimization import go_on
from minitrans.training.precision import NonFiniteError
from minitrans.training.run import Evaluate, Run
from minitrans.training.settings import TrainingSettings
from minitrans.training.stopping import Signals


@dataclass
class Report:
    """What became of a run.

    Attributes:
        steps: of the optimiser, those before a restart included.
        losses: of each step of this run.
        metrics: what the last evaluation said.
        best: (step, value) of the best one.
        ended: why: "done", or "patience".
    """

    steps: int = 0
    losses: list[float] = field(default_factory=list)
    metrics: Mapping[str, float] = field(default_factory=dict)
    best: tuple[int, float] | None = None
    ended: str = "done"


def train(
    model: nn.Module,
    objective: Objective,
    source: Source,
    settings: TrainingSettings,
    *,
    evaluate: Evaluate | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    order: Order | None = None,
    identity: Mapping[str, str] | None = None,
) -> Report:
    """Teaches `model` what `objective` says, on the examples of `source`; under torchrun, on all its processes.

    At the end the model has its last weights, or those of the best evaluation, and `out` is a checkpoint of it. After
    SIGTERM or SIGINT the step at hand is finished and saved, and the process exits with 143 or 130.

    Args:
        model: of ours, or any that the objective can call. It is changed in place.
        objective: what is learnt.
        source: the examples.
        settings: how.
        evaluate: called with the model, in evaluation mode and without gradients, at each evaluation; gives metrics by name.
        out: the folder for checkpoints (`step-...`), logs and the result; None = nothing is written.
        resume: go on from the newest whole checkpoint in `out`; without it there must be none.
        order: of the examples; None = by the settings.
        identity: hashes of what else must be the same at a restart, as {"vocabulary": ...}.

    Raises:
        ValueError: for checkpoints in `out` without `resume`, or ranks that were told different things.
        CheckpointError: where there is none to go on from, or it is of another training; the key is named.
        NonFiniteError: for a loss or gradients that are not finite; the batch is saved in `out`.
        OSError: where the disk refuses; the last whole checkpoint is as it was.
    """
    ranks = Ranks(next(model.parameters()).device, settings.timeout)
    with ranks.one_message(), Signals() as signals:
        run = Run(model, objective, source, settings, ranks, order, Path(out) if out else None, identity or {})
        run.begin(resume)
        return learn(run, evaluate, signals)


def learn(run: Run, evaluate: Evaluate | None, signals: Signals) -> Report:
    """From where it is to the end."""
    settings, report = run.settings, Report()
    log = Log(run.out, run.total, settings.log_every, tensorboard=settings.tensorboard, leads=run.ranks.leads,
              device=run.ranks.device)  # fmt: skip
    run.model.train()
    with log:
        while run.step < run.total and not run.best.exhausted:
            steps = run.order.steps(run.epoch)
            for numbers in steps[run.at :]:
                loss, norm, tokens = do_step(run, numbers)
                run.step, run.at = run.step + 1, run.at + 1
                report.losses.append(loss)
                rate = float(run.schedule.get_last_lr()[-1])
                log.step(run.step, run.epoch, loss, tokens, norm=norm, learning_rate=rate)
                asked = run.ranks.largest(signals.received)
                ends, at_end = run.step == run.total, run.at == len(steps)
                better = False
                if evaluate is not None and (ends or _due(settings.evaluate_every, run.step, at_end)):
                    report.metrics = run.evaluated(evaluate)
                    better = run.best.see(report.metrics, run.step)
                    log.write(run.step, epoch=run.epoch, evaluation=dict(report.metrics))
                if at_end:
                    run.epoch, run.at = run.epoch + 1, 0
                if asked or ends or better or run.best.exhausted or _due(settings.save_every, run.step, at_end):
                    run.save()
                if asked:
                    raise SystemExit(128 + asked)
                if ends or run.best.exhausted:
                    break
    report.steps, report.ended = run.step, "patience" if run.best.exhausted else "done"
    report.best = run.best.found
    run.finish()
    return report


def do_step(run: Run, numbers: list[int]) -> tuple[float, float, int]:
    """One step of the optimiser on these examples: its loss, the norm of its gradients, and how many tokens it read."""
    torch.manual_seed(seed_from(run.settings.seed, run.step, run.ranks.rank))  # dropout, whatever came before
    parts = run.order.parts(numbers, run.ranks.size, run.settings.accumulation)
    rounds = [micro for micro in zip(*parts, strict=True) if any(micro)]  # all ranks do equally many
    mine = [micro[run.ranks.rank] for micro in rounds]
    batches = [run.batch(part or numbers[:1]) for part in mine]
    loss, tokens = backward(run, batches, [bool(part) for part in mine])
    run.unfreezing.drop(run.step)
    run.precision.unscale(run.learning)
    norm = gradient_norm(run.learning, run.settings.clip)
    try:
        accepted = run.precision.accepts(norm if math.isfinite(loss) else math.nan)
    except NonFiniteError as error:
        raise NonFiniteError(f"step {run.step + 1}: {error}, the loss is {loss}; {run.kept(batches, mine)}") from None
    if accepted:
        run.optimizer.step()
        run.ema.update()
    go_on(run.schedule, run.step + 1)
    run.optimizer.zero_grad()
    return loss, norm, tokens


def backward(run: Run, batches: Sequence[Batch], count: Sequence[bool]) -> tuple[float, int]:
    """The gradients of a step: of Σ_k (sum of term k) / (its items), both over all micro-batches of all ranks.

    Args:
        run: whose parameters get them.
        batches: the micro-batches of this rank.
        count: whether they do. A rank that has none left computes with another's, for the others wait for it.

    Returns:
        The loss of the step, and how many tokens it read, over all ranks.
    """
    counted = [batch for batch, counts in zip(batches, count, strict=True) if counts]
    items = sum((run.objective.items(batch) for batch in counted), torch.zeros_like(run.objective.items(batches[0])))
    read = torch.tensor([sum(tokens_in(batch) for batch in counted)])
    totals = run.ranks.sum(torch.cat([items, read])).to(run.ranks.device)
    loss = torch.zeros((), dtype=torch.float64, device=run.ranks.device)
    for number, (batch, counts) in enumerate(zip(batches, count, strict=True), start=1):
        with micro_batch(run.module, last=number == len(batches)):
            with run.precision.autocast():
                sums = run.module({name: each.to(run.ranks.device) for name, each in batch.items()})
                share = (sums / totals[:-1].clamp(min=1)).sum() * counts
            (share * (run.precision.scale * run.ranks.size)).backward()  # ranks are averaged
        loss += share.detach()
    return float(run.ranks.sum(loss)), int(totals[-1])


def _due(every: int | None, step: int, at_end: bool) -> bool:
    return at_end if every is None else step % every == 0
