"""The parts of a training and where it is: how it begins, draws, looks, saves and ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import nn

from minitrans.training.checkpoints import Checkpoints
from minitrans.training.data.order import Order
from minitrans.training.data.source import Source
from minitrans.training.distributed import Learner, Ranks, full_state, ready_to_read
from minitrans.training.ema import Ema
from minitrans.training.groups import Unfreezing, freeze, parameter_groups
from minitrans.training.lora import add_lora, merge_lora
from minitrans.training.objective import Batch, Objective, seed_from
from minitrans.training.optimization import AdamW, get_schedule, go_on
from minitrans.training.precision import Precision
from minitrans.training.settings import TrainingSettings
from minitrans.training.state import digest, identity_of, make_moments, require_same, tensors_of
from minitrans.training.stopping import Best

Evaluate = Callable[[nn.Module], Mapping[str, float]]


class Run:
    """One training. The arguments are those of `train`."""

    def __init__(
        self, model: nn.Module, objective: Objective, source: Source, settings: TrainingSettings, ranks: Ranks,
        order: Order | None, out: Path | None, identity: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.model: Any = model
        self.objective, self.source, self.settings, self.ranks, self.out = objective, source, settings, ranks, out
        rows = None if settings.batch_tokens else settings.batch_size
        self.order = order or Order(source.lengths, settings.seed, rows=rows, tokens=settings.batch_tokens)
        self.identity = identity_of(settings, model, source, identity)
        if settings.lora_rank:
            add_lora(model, settings.lora_rank, settings.lora_alpha, settings.lora_targets, settings.lora_learns)
        freeze(model, settings.freeze)
        if settings.gradient_checkpointing:
            cast("Any", model).gradient_checkpointing_enable()
        self.learner = Learner(model, objective)
        if settings.compile:
            self.learner.compile(dynamic=True)
        self.module = ranks.wrap(self.learner, settings.parallel)
        learning = {name: each for name, each in self.learner.named_parameters() if each.requires_grad}
        self.learning = list(learning.values())
        self.optimizer = AdamW(parameter_groups(self.learner, settings), betas=settings.betas, eps=settings.eps)
        counts = [len(self.order.steps(epoch)) for epoch in range(settings.epochs)]
        self.total = min(sum(counts), settings.max_steps or sum(counts))
        warmup = round(settings.warmup * self.total if settings.warmup < 1 else settings.warmup)
        self.schedule = get_schedule(settings.schedule, self.optimizer, warmup, self.total)
        self.unfreezing = Unfreezing(self.learner, settings.unfreeze_every)
        self.precision = Precision(settings.precision, ranks.device)
        self.ema = Ema(learning, settings.ema)
        self.best = Best(settings.best, settings.maximize, settings.patience)
        self.checkpoints = None if out is None else Checkpoints(out, settings.keep, ranks)
        self.step = self.epoch = self.at = 0  # steps done in all; the epoch of the next one, and its place there

    def begin(self, resume: bool) -> None:
        """Makes sure that all ranks mean the same training, and goes on where it was."""
        self.ranks.require_same({name: digest(value) for name, value in self.identity.items()})
        if self.checkpoints is None:
            return
        if not resume:
            if self.checkpoints.steps():
                raise ValueError(f"{self.out}: has checkpoints already: resume, or train into another folder")
            return
        self.step, facts = self.checkpoints.newest()
        require_same(str(self.checkpoints.path(self.step)), facts["identity"], self.identity)
        make_moments(self.learner, self.optimizer, self.checkpoints.saved(self.step))
        self.checkpoints.load(self.step, tensors_of(self.learner, self.optimizer, self.ema))
        self.epoch, self.at = facts["epoch"], facts["at"]
        self.precision.load(facts["precision"])
        self.best.load(facts["best"])
        go_on(self.schedule, self.step)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """These examples, with what is random in them."""
        draw = 0 if self.settings.static else self.epoch
        seeds = [torch.Generator().manual_seed(seed_from(self.settings.seed, draw, number)) for number in numbers]
        examples = [self.objective.prepare(self.source[n], seed) for n, seed in zip(numbers, seeds, strict=True)]
        return self.objective.collate(examples)

    def kept(self, batches: Sequence[Batch], numbers: Sequence[Sequence[int]]) -> str:
        """Saves the micro-batches of a step; says where they are, and which examples are in them."""
        told = f"it has the examples {[number for part in numbers for number in part]}"
        if self.out is None:
            return told
        path = self.out / f"nonfinite-step-{self.step + 1:08d}-rank-{self.ranks.rank}.safetensors"
        tensors = {
            f"{at}.{name}": each.contiguous() for at, batch in enumerate(batches) for name, each in batch.items()
        }
        save_file(
            tensors, path, {"examples": json.dumps(numbers), "seed": str(self.settings.seed), "step": str(self.step)}
        )
        return f"{told}, saved in {path}"

    def evaluated(self, evaluate: Evaluate) -> Mapping[str, float]:
        """The metrics of the weights that would be kept."""
        self.model.eval()
        with torch.no_grad(), self.ema.applied(), ready_to_read(self.model):
            metrics: Mapping[str, float] = self.ranks.from_lead(dict(evaluate(self.model)))
        self.model.train()
        return metrics

    def save(self) -> None:
        """A checkpoint of this very place."""
        if self.checkpoints is not None:
            facts = {"epoch": self.epoch, "at": self.at, "identity": self.identity, "precision": self.precision.state(),
                     "best": self.best.state()}  # fmt: skip
            tensors = tensors_of(self.learner, self.optimizer, self.ema)
            self.checkpoints.save(self.step, tensors, facts, self.best.step)

    def finish(self) -> None:
        """The model gets the weights that are to be kept, without what only training needed, and is saved."""
        if self.checkpoints is not None and self.best.step not in (None, self.step):
            self.checkpoints.load_weights(self.best.step, tensors_of(self.learner, self.optimizer, self.ema))
        self.ema.keep()
        merge_lora(self.model)
        state = full_state(self.model)
        if self.out is not None and self.ranks.leads and hasattr(self.model, "save_pretrained"):
            self.model.save_pretrained(self.out, state_dict=state)
        self.ranks.wait()
