"""What a model learns from: the protocol that the loop, the data and the metrics meet in, and the heads' own losses by it.

A loss that averages over tokens must average over those of the whole step, however the step is cut into micro-batches and
ranks. Hence an objective gives *sums*, and how many things each sum runs over; the loop adds both up over the step and
divides once: loss = Σ_k sum_k / items_k. Terms that average over different things (masked tokens and pairs of sentences, first
and last tokens of answers) are counted apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitrans.layers.losses import IGNORED, next_token_labels, span_loss
from minitrans.models import deberta_v2, double_heads, electra, language_tasks, pair_tasks, tasks
from minitrans.models.pretrained import PreTrainedModel

ENDS = ("start_positions", "end_positions")
Example = Mapping[str, Any]  # of one text: numbers, lists of numbers, and lists of lists for several texts
Batch = dict[str, Tensor]  # of several, by the names of a model's arguments


class Objective(Protocol):
    """What is to be learnt from examples. k is the number of its terms, 1 for most."""

    def prepare(self, example: Example, generator: torch.Generator) -> Example:
        """One example with its randomness (masks, spans) drawn from `generator`; most return it as it is.

        The loop seeds the generator by (seed, epoch, index), so that an example is the same under any order, rank count and
        restart; by (seed, 0, index) where masks are to be static.
        """
        ...

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Examples as one padded batch on the CPU, with labels."""
        ...

    def items(self, batch: Batch) -> Tensor:
        """(k,) int64: over how many things each term of the loss averages in this batch."""
        ...

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """(k,): each term summed over its items, differentiable. `model` may be wrapped: call it, and nothing else of it."""
        ...


class HeadObjective:
    """The loss of a head of ours, by the head's own forward: classes, tags, answers, masked and next tokens, texts from texts.

    Examples hold the arguments of the forward: `input_ids`, and what the head learns from (`labels`, `start_positions`, ...);
    a causal language model learns `input_ids` where there are no `labels`. Where no `attention_mask` is given, all tokens of an
    example count.

    Args:
        model: whose head it is; its configuration says which id is padding.

    Raises:
        TypeError: for a model without a head that has a loss.
    """

    def __init__(self, model: nn.Module) -> None:
        counts = next((count for head, count in HEADS if isinstance(model, head)), None)
        if counts is None or not isinstance(model, PreTrainedModel):
            raise TypeError(f"{type(model).__name__} has no loss to learn from: take a model with a head")
        self.config, self.counts = model.config, counts
        self.fills = {"labels": IGNORED, "input_ids": self.config.pad_token_id or 0}
        self.fills["decoder_input_ids"] = self.fills["input_ids"]
        self.predicts_next = isinstance(model, language_tasks.CausalLM)
        self.doubled = isinstance(model, double_heads.DoubleHeads)

    def prepare(self, example: Example, generator: torch.Generator) -> Example:
        """The example as it is."""
        return example

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pads on the right: labels with -100, ids with the padding id, all else with 0."""
        batch = pad(examples, self.fills)
        if "attention_mask" not in batch and "input_ids" in batch:
            ids = padded([each["input_ids"] for each in examples], -1)
            batch["attention_mask"] = (ids >= 0).long()
        if self.predicts_next and "labels" not in batch:
            batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        return batch

    def items(self, batch: Batch) -> Tensor:
        """(k,): labels that are not -100, numbers of a regression, real tokens of ELECTRA's discriminator."""
        return torch.stack([torch.as_tensor(count) for count in self.counts(self.config, batch)]).long()

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """(k,), of one forward: what is divided by infinity is no part of a sum.

        Padding is no candidate for an answer, where the head's own loss, as the reference's, lets it be one: how long other
        examples of a batch are would tell.
        """
        if self.counts not in TWO_TERMS:
            loss: Tensor = model(**batch, num_items_in_batch=1, return_dict=True).loss
            return loss[None]
        alone = torch.full((2, 2), math.inf, dtype=torch.float64, device=batch["input_ids"].device).fill_diagonal_(1.0)
        if self.counts is _ends:
            asked = {name: each for name, each in batch.items() if name not in ENDS}
            scores = model(**asked, return_dict=True)
            lowest = torch.finfo(scores.start_logits.dtype).min
            padding = batch["attention_mask"] == 0
            start, end = (each.masked_fill(padding, lowest) for each in (scores.start_logits, scores.end_logits))
            return span_loss(start, end, *_real_ends(batch), (alone[0], alone[1]))
        output = model(**batch, num_items_in_batch=(alone[0], alone[1]), return_dict=True)
        both: Tensor = output.loss + output.mc_loss if self.doubled else output.loss
        return both


def seed_from(*numbers: int) -> int:
    """One seed for a place in a run, as (seed, epoch, index): unlike for any two places, the same on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def tokens_in(batch: Batch) -> int:
    """How many real tokens a batch has, on all its sides."""
    masks = [name for name in batch if name.endswith("attention_mask")]
    ids = [name for name in batch if name.endswith("input_ids")]
    return sum(int(batch[name].sum()) for name in masks) if masks else sum(batch[name].numel() for name in ids)


def pad(examples: Sequence[Example], fills: Mapping[str, float]) -> Batch:
    """Examples as a batch: each entry padded on the right, in every dimension, to the longest with its fill, else with 0."""
    return {name: padded([each[name] for each in examples], fills.get(name, 0)) for name in examples[0]}


def padded(values: Any, fill: float) -> Tensor:
    """Nested lists, or lists of tensors, of unequal lengths as one tensor."""
    if (
        isinstance(values, Tensor)
        or not hasattr(values, "__len__")
        or not len(values)
        or not hasattr(values[0], "__len__")
    ):
        return torch.as_tensor(values)
    parts = [padded(each, fill) for each in values]
    shape = [max(sizes) for sizes in zip(*(part.shape for part in parts), strict=True)]
    room = [
        [each for size, own in zip(shape[::-1], part.shape[::-1], strict=True) for each in (0, size - own)]
        for part in parts
    ]
    return torch.stack([F.pad(part, around, value=fill) for part, around in zip(parts, room, strict=True)])


def _labels(config: Any, batch: Batch) -> list[Tensor]:
    return [(batch["labels"] != IGNORED).sum()]


def _next_labels(config: Any, batch: Batch) -> list[Tensor]:
    return [(next_token_labels(batch["labels"]) != IGNORED).sum()]


def _classes(config: Any, batch: Batch) -> list[Tensor]:
    """One for each label that is a class; where labels are numbers, each number counts."""
    labels = batch["labels"]
    single = config.problem_type or ("" if config.num_labels == 1 or labels.is_floating_point() else "single")
    return _labels(config, batch) if single.startswith("single") else [torch.tensor(labels.numel())]


def _classes_or_distributions(config: Any, batch: Batch) -> list[Tensor]:
    labels = batch["labels"]
    soft = config.problem_type is None and labels.dim() == 2 and labels.shape[-1] > 1
    return [torch.tensor(len(labels))] if soft else _classes(config, batch)


def _ends(config: Any, batch: Batch) -> list[Tensor]:
    length = batch["input_ids"].shape[1]
    return [(places < length).sum() for places in _real_ends(batch)]


def _real_ends(batch: Batch) -> tuple[Tensor, Tensor]:
    """(B) each: where answers begin and end; the length of the batch where that is outside the text, so that it is left out."""
    length, real = batch["input_ids"].shape[1], batch["attention_mask"] == 1
    found = []
    for name in ENDS:
        places = batch[name].flatten().clamp(0, length)
        inside = real.gather(1, places.clamp(max=length - 1)[:, None])[:, 0]
        found.append(places.where(inside, length))
    start, end = found
    return start, end


def _real_tokens(config: Any, batch: Batch) -> list[Tensor]:
    return [(batch["attention_mask"] == 1).sum()]


def _tokens_and_texts(config: Any, batch: Batch) -> list[Tensor]:
    texts = batch["next_sentence_label"] if "next_sentence_label" in batch else batch["sentence_order_label"]
    return [*_labels(config, batch), (texts != IGNORED).sum()]


def _next_labels_and_choices(config: Any, batch: Batch) -> list[Tensor]:
    return [*_next_labels(config, batch), (batch["mc_labels"] != IGNORED).sum()]


TWO_TERMS = (_ends, _tokens_and_texts, _next_labels_and_choices)
# Which labels each head averages over; the first row that a model is an instance of is its.
HEADS: tuple[tuple[type[nn.Module], Callable[[Any, Batch], list[Tensor]]], ...] = (
    (language_tasks.TwoLosses, _tokens_and_texts),
    (double_heads.DoubleHeads, _next_labels_and_choices),
    (electra.ElectraForPreTraining, _real_tokens),
    (language_tasks.CausalLM, _next_labels),
    (tasks.QuestionAnswering, _ends),
    (pair_tasks.QuestionAnswering, _ends),
    (deberta_v2.DebertaV2ForSequenceClassification, _classes_or_distributions),
    (tasks.SequenceClassification, _classes),
    (pair_tasks.SequenceClassification, _classes),
    (tasks.LabelledModel, _labels),
    (tasks.MultipleChoice, _labels),
    (pair_tasks.ConditionalGeneration, _labels),
)
