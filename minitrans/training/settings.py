"""What a training run is told: the fields of its configuration file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """All but the model, the objective and the data. Steps are steps of the optimiser.

    Raises:
        ValueError: for a value out of its range, naming the field.
    """

    # how much, and of what
    seed: int = 0  # of the order, of dropout and of what objectives draw
    epochs: int = 3  # passes over the data
    max_steps: int | None = None  # an end before that
    batch_size: int = 32  # examples of a step, over all ranks
    batch_tokens: int | None = None  # or tokens of a step, over all ranks; it replaces batch_size
    accumulation: int = 1  # micro-batches in which a rank computes its share of a step; gradients are the same for any
    static: bool = False  # an example is drawn (masked) once, and not anew in every epoch
    # the optimiser
    learning_rate: float = 5e-5
    weight_decay: float = 0.01  # none on norms and biases
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    clip: float | None = 1.0  # largest norm of all gradients together; None = no limit
    schedule: str = "linear"  # a row of `optimization.SCHEDULES`
    warmup: float = 0.0  # steps of the linear rise; below 1 a fraction of all
    # which parameters learn, and how fast
    layer_decay: float = 1.0  # factor of the learning rate from each layer to the one below
    freeze: tuple[str, ...] = ()  # patterns of parameters that do not learn, as "*embeddings*"
    unfreeze_every: int | None = None  # steps after which the next layer from above begins to learn; None = all at once
    lora_rank: int = 0  # of low-rank updates that learn in place of the weights; 0 = the weights learn
    lora_alpha: float = 16.0  # updates are scaled by alpha / rank
    lora_targets: tuple[str, ...] = ("*query", "*value")  # patterns of the linear layers that get one
    lora_learns: tuple[str, ...] = ()  # patterns of parameters that learn besides, as "classifier*"
    # how it is computed
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    gradient_checkpointing: bool = False  # compute blocks twice, to keep less
    compile: bool = False  # by `torch.compile`
    parallel: Literal["ddp", "fsdp"] = "ddp"  # under torchrun: whole models, or sharded ones
    timeout: float = 600.0  # seconds that a rank waits for the others
    ema: float = 0.0  # decay of the average of the weights that is evaluated and kept; 0 = none
    # what is watched and kept
    evaluate_every: int | None = None  # steps; None = at the end of every epoch
    save_every: int | None = None  # steps; None = at the end of every epoch
    keep: int = 2  # last checkpoints that stay, besides the best
    best: str = "loss"  # the metric of `evaluate` that tells the best checkpoint
    maximize: bool = False  # whether more of it is better
    patience: int | None = None  # evaluations without a better one after which training ends
    log_every: int = 10  # steps
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} must be between {low} and {high}, got {value!r}")


# Fields that change nothing in what is learnt, or what only rounding tells: a training may go on with others.
FREE = frozenset({
    "accumulation", "compile", "gradient_checkpointing", "keep", "log_every", "parallel", "save_every", "tensorboard", "timeout",
})  # fmt: skip
_MANY = float("inf")
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1), "epochs": (1, _MANY), "max_steps": (1, _MANY), "batch_size": (1, _MANY), "batch_tokens": (1, _MANY),
    "accumulation": (1, _MANY), "learning_rate": (0, 1000), "weight_decay": (0, 1000), "eps": (0, 1), "clip": (1e-12, _MANY),
    "warmup": (0, _MANY), "layer_decay": (1e-6, 1), "unfreeze_every": (1, _MANY), "lora_rank": (0, _MANY), "timeout": (1, _MANY),
    "ema": (0, 1), "evaluate_every": (1, _MANY), "save_every": (1, _MANY), "keep": (1, _MANY), "patience": (1, _MANY),
    "log_every": (1, _MANY),
}  # fmt: skip
