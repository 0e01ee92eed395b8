"""A small model learns from a large one: what it says and what it sees (Sanh et al. 2019, "DistilBERT"), or how its last layer
relates tokens (Wang et al. 2020, "MiniLM"; 2021, "MiniLMv2").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.training.objective import Batch, Example
from minitrans.training.objectives.classes import Classes


class FromTeacher:
    """Three losses (Sanh et al. 2019, section 3): soft targets, hard targets, and the direction of the last hidden states.

    soft = τ² KL(teacher^(1/τ) ‖ student^(1/τ)) (Hinton et al. 2015), cosine = 1 - cos(h_student, h_teacher), each a mean over
    tokens; soft of a head with one label a text is a mean over texts.

    Args:
        hard: what the student learns from labels; it makes the batches too.
        teacher: with the same head; it is put in evaluation mode and stays as it is.
        temperature: τ.
        weights: of soft, hard and cosine. 0 leaves a loss out: cosine must be where the widths differ.
    """

    def __init__(
        self, hard: Classes, teacher: nn.Module, *, temperature: float = 2.0,
        weights: tuple[float, float, float] = (5.0, 2.0, 1.0),
    ) -> None:  # fmt: skip
        self.hard, self.teacher = hard, teacher.eval().requires_grad_(False)
        self.temperature, self.weights = temperature, weights

    def prepare(self, example: Example, generator: torch.Generator) -> Example:
        """As `hard`."""
        return self.hard.prepare(example, generator)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """As `hard`."""
        return self.hard.collate(examples)

    def items(self, batch: Batch) -> Tensor:
        """(3): tokens, or texts; labels; tokens."""
        real = batch["attention_mask"].sum()
        rows = real if batch["labels"].dim() == 2 else torch.tensor(len(batch["labels"]))
        return torch.stack([rows, self.hard.items(batch)[0].to(rows.device), real])

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """(3), each times its weight."""
        soft, hard, direction = self.weights
        given = {name: value for name, value in batch.items() if name != "labels"}
        options: dict[str, Any] = {"output_hidden_states": direction != 0, "return_dict": True}
        student = model(**given, **options)
        with torch.no_grad():
            teacher = self.teacher(**given, **options)
        real = batch["attention_mask"] != 0
        rows = [output.logits[real] if output.logits.dim() == 3 else output.logits for output in (student, teacher)]
        zero = student.logits.new_zeros(())
        return torch.stack([
            soft * softened_divergence(rows[1], rows[0], self.temperature).sum() if soft else zero,
            hard * self.hard.of_scores(student.logits, self.hard.targets(batch)),
            direction * _turned(student, teacher, real) if direction else zero,
        ])  # fmt: skip


def softened_divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """τ² KL(p ‖ q) of the distributions of logits / τ; (..., C) twice -> (...)."""
    log_p, log_q = (F.log_softmax(scores / temperature, dim=-1) for scores in (teacher, student))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def _turned(student: Any, teacher: Any, real: Tensor) -> Tensor:
    """Σ over tokens of 1 - cos of the last hidden states."""
    return (1 - F.cosine_similarity(student.hidden_states[-1][real], teacher.hidden_states[-1][real], dim=-1)).sum()


MINILM = (("query", "key"), ("value", "value"))
MINILM_V2 = (("query", "query"), ("key", "key"), ("value", "value"))


class Relations:
    """KL(teacher ‖ student) of softmax(A B^T / sqrt(K)) of a layer, a mean over heads and tokens, for each kind of relation.

    A and B are queries, keys or values as they are projected, without rotation or bias. No labels are needed, and no heads; the
    widths may differ, and with relation heads the numbers of heads too.

    Args:
        student: whose forward is called.
        teacher: stays as it is.
        relations: MINILM (section 3.1 and 3.2), or MINILM_V2.
        heads: into how many parts queries, keys and values are cut anew ("relation heads" of MiniLMv2); None = the attention's
            own, of which both must have as many.
        student_layer: of the student's attention layers.
        teacher_layer: of the teacher's; -1 = the last (MiniLMv2 advises one below it for large teachers).

    Raises:
        ValueError: for heads that differ, or do not divide a width.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, *, relations: Sequence[tuple[str, str]] = MINILM,
        heads: int | None = None, student_layer: int = -1, teacher_layer: int = -1,
    ) -> None:  # fmt: skip
        self.teacher, self.relations = teacher.eval().requires_grad_(False), relations
        self.layers = (_attention(student, student_layer), _attention(teacher, teacher_layer))
        counts = {layer.num_heads for layer in self.layers} if heads is None else {heads}
        widths = [layer.query.out_features for layer in self.layers]
        if len(counts) > 1 or any(width % min(counts) for width in widths):
            raise ValueError(
                f"widths {widths} need one number of heads that divides them, got {sorted(counts)}: give heads="
            )
        self.heads = min(counts)
        self.fill = getattr(student.config, "pad_token_id", 0) or 0

    def prepare(self, example: Example, generator: torch.Generator) -> Example:
        """The example as it is."""
        return example

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Ids, padded."""
        rows = torch.nn.utils.rnn.pad_sequence(
            [torch.as_tensor(each["input_ids"]) for each in examples], batch_first=True, padding_value=-1
        )
        return {"input_ids": rows.masked_fill(rows < 0, self.fill), "attention_mask": (rows >= 0).long()}

    def items(self, batch: Batch) -> Tensor:
        """(k): tokens, for each kind of relation."""
        return batch["attention_mask"].sum().repeat(len(self.relations))

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """(k)."""
        student, teacher = self.layers
        with _heard(student) as ours:
            model(**batch, padding="keep", return_dict=True)
        with _heard(teacher) as theirs, torch.no_grad():
            self.teacher(**batch, padding="keep", return_dict=True)
        real = batch["attention_mask"] != 0
        sums = []
        for one, other in self.relations:
            log_q, log_p = (relation(heard[one], heard[other], self.heads, real) for heard in (ours, theirs))
            apart = (log_p.exp() * (log_p - log_q)).masked_fill(~real[:, None, None], 0).sum(dim=-1)  # (B, H, T)
            sums.append(apart.mean(dim=1)[real].sum())
        return torch.stack(sums)


def relation(one: Tensor, other: Tensor, heads: int, real: Tensor) -> Tensor:
    """log softmax(A B^T / sqrt(K)) over real tokens; (B, T, H · K) twice, (B, T) bool -> (B, H, T, T)."""
    a, b = (x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2) for x in (one, other))  # (B, H, T, K)
    scores = a @ b.transpose(-1, -2) / a.shape[-1] ** 0.5
    return F.log_softmax(scores.masked_fill(~real[:, None, None], torch.finfo(scores.dtype).min), dim=-1)


def _attention(model: nn.Module, layer: int) -> MultiHeadAttention:
    found = [module for module in model.modules() if isinstance(module, MultiHeadAttention)]
    if not -len(found) <= layer < len(found):
        raise ValueError(f"{type(model).__name__} has {len(found)} attention layers, not one number {layer}")
    return found[layer]


@contextmanager
def _heard(layer: MultiHeadAttention) -> Iterator[dict[str, Tensor]]:
    """What the projections of a layer return in a forward."""
    heard: dict[str, Tensor] = {}
    projections = {name: layer.get_submodule(name) for name in ("query", "key", "value")}

    def hook(name: str) -> Any:
        return lambda module, given, output: heard.__setitem__(name, output)

    hooks = [module.register_forward_hook(hook(name)) for name, module in projections.items()]
    try:
        yield heard
    finally:
        for each in hooks:
            each.remove()
