"""A step has one gradient, however it is cut into micro-batches: for every head, with other numbers of labels everywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import minitrans
from minitrans.families import FAMILIES
from minitrans.models.backbone import Backbone
from minitrans.models.encoder_decoder import EncoderDecoder
from minitrans.models.pair_tasks import PairHead
from minitrans.training import objective
from minitrans.training.data.source import Examples
from minitrans.training.distributed import Ranks
from minitrans.training.loop import backward
from minitrans.training.objective import HeadObjective
from minitrans.training.run import Run
from minitrans.training.settings import TrainingSettings
from tests.training.heads import HEADS, examples_of, model_with


def gradients(head: str, accumulation: int) -> tuple[float, dict[str, torch.Tensor]]:
    """Of one step on all examples: its loss, and the gradient of every parameter that has one."""
    model = model_with(head).train()
    source = Examples(examples_of(head))
    settings = TrainingSettings(batch_size=len(source), accumulation=accumulation, clip=None, epochs=1)
    run = Run(model, HeadObjective(model), source, settings, Ranks(torch.device("cpu"), 60), None, None, {})
    parts = run.order.parts(list(range(len(source))), 1, accumulation)[0]
    loss, _ = backward(run, [run.batch(part) for part in parts], [True] * accumulation)
    return loss, {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("head", HEADS)
def test_micro_batches_add_up(head: str) -> None:
    loss, whole = gradients(head, 1)
    scale = max(float(each.abs().max()) for each in whole.values())
    assert scale > 0
    for accumulation in (2, 3, 6):
        again, parts = gradients(head, accumulation)
        assert again == pytest.approx(loss, rel=1e-12)
        for name, each in whole.items():
            # sums in another order round by 1e-16 of their largest term
            torch.testing.assert_close(
                parts[name], each, rtol=1e-12, atol=1e-14 * scale, msg=f"{head} {accumulation} {name}"
            )


@pytest.mark.parametrize("head", [head for head in HEADS if "answer" not in head])
def test_the_loss_of_a_step_is_that_of_the_head(head: str) -> None:
    model, examples = model_with(head), examples_of(head)
    learnt = HeadObjective(model)
    batch = learnt.collate(examples)
    output = model(**batch)
    expected = output.loss + output.mc_loss if head == "double" else output.loss
    got = (learnt.losses(model, batch) / learnt.items(batch)).sum()
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("head", ["answer", "answer of a pair"])
def test_padding_is_no_candidate_for_an_answer(head: str) -> None:
    """Each text alone has no padding: there it is the head's own loss."""
    model, examples = model_with(head), examples_of(head)
    learnt = HeadObjective(model)
    batch = learnt.collate(examples)
    alone = [model(**learnt.collate([each])).loss * 2 for each in examples if each["end_positions"] < 99]
    only_starts = [
        model(**learnt.collate([{**each, "end_positions": 0}])) for each in examples if each["end_positions"] == 99
    ]
    sums = learnt.losses(model, batch).sum() * 2
    for each, output in zip([each for each in examples if each["end_positions"] == 99], only_starts, strict=True):
        alone.append(torch.nn.functional.cross_entropy(output.start_logits, torch.tensor([each["start_positions"]])))
    torch.testing.assert_close(sums, torch.stack(alone).sum(), rtol=1e-12, atol=0)


def test_every_head_has_a_row() -> None:
    names = [name for row in FAMILIES.values() for name in row.class_names]
    models = [getattr(minitrans, name) for name in names if not name.endswith(("Config", "EncoderModel"))]
    heads = [each for each in models if not issubclass(each, Backbone | EncoderDecoder) or issubclass(each, PairHead)]
    missing = [head.__name__ for head in heads if not any(issubclass(head, row) for row, _ in objective.HEADS)]
    assert len(heads) > 100
    assert missing == []


def test_a_body_has_no_loss() -> None:
    body: Any = minitrans.BertModel(minitrans.BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1))
    with pytest.raises(TypeError, match="BertModel has no loss to learn from: take a model with a head"):
        HeadObjective(body)


def test_a_step_without_labels_learns_nothing() -> None:
    model = model_with("tags")
    learnt = HeadObjective(model)
    batch = learnt.collate([{"input_ids": [5, 6], "labels": [-100, -100]}])
    assert learnt.items(batch).tolist() == [0]
    assert learnt.losses(model, batch).tolist() == [0.0]
