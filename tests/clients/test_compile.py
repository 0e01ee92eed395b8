"""torch.compile as it is used: one graph, by the default compiler, of a body in inference and of a step of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend

import minitrans


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def batch(rows: int, length: int, padded: bool) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * 100 + length)
    mask = torch.ones(rows, length, dtype=torch.long)
    if padded:
        mask[0, length // 2 :] = 0
    ids = torch.randint(5, 40, (rows, length), generator=generator)
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


BATCHES = [(2, 5, False), (3, 7, True), (5, 12, False)]

LABELS: dict[str, Callable[[torch.Tensor], dict[str, torch.Tensor]]] = {
    "BertForMaskedLM": lambda ids: {"labels": ids.masked_fill(ids < 20, -100)},
    "RobertaForTokenClassification": lambda ids: {"labels": ids % 2},
    "BertForSequenceClassification": lambda ids: {"labels": ids[:, 0] % 2},
    "DistilBertForQuestionAnswering": lambda ids: {"start_positions": ids[:, 0] % 4, "end_positions": ids[:, 1] % 4},
    "BertLMHeadModel": lambda ids: {"labels": ids},
    "ElectraForPreTraining": lambda ids: {"labels": ids % 2},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "dynamic"),
    [("BertForSequenceClassification", None), ("BertForMaskedLM", True), ("DistilBertForQuestionAnswering", True)],
)
def test_a_step_of_training(tiny: Callable[..., str], name: str, dynamic: bool | None) -> None:
    """Loss and gradients are those of the model; other sizes need no other graph, once they are known to be open."""
    options = {"is_decoder": True} if name == "BertLMHeadModel" else {}
    model = getattr(minitrans, name).from_pretrained(tiny(name, **options)).double()
    counter = CompileCounterWithBackend("aot_eager")
    step = torch.compile(lambda **given: model(**given).loss, fullgraph=True, dynamic=dynamic, backend=counter)
    graphs = []
    for case in BATCHES:
        given = batch(*case)
        given = {**given, **LABELS[name](given["input_ids"])}
        model.zero_grad()
        expected = model(**given).loss
        expected.backward()
        gradients = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        got = step(**given)
        got.backward()
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
        for key, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(parameter.grad, gradients[key], rtol=0, atol=1e-10)
        graphs.append(counter.frame_count)
    assert len(set(graphs[0 if dynamic else 1 :])) == 1, graphs


@pytest.mark.parametrize("name", ["BertModel", "MPNetModel", "AlbertModel", "DistilBertModel"])
def test_inference_of_open_sizes(tiny: Callable[..., str], name: str) -> None:
    model = getattr(minitrans, name).from_pretrained(tiny(name)).double()
    counter = CompileCounter()
    graph = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for case in BATCHES:
            given = batch(*case)
            got, expected = (net(**given).last_hidden_state for net in (graph, model))
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_by_the_default_compiler(tiny: Callable[..., str]) -> None:
    model = minitrans.BertForSequenceClassification.from_pretrained(tiny("BertForSequenceClassification"))
    graph = torch.compile(model, fullgraph=True, dynamic=True)
    for case in BATCHES:
        given = batch(*case)
        labels = torch.arange(len(given["input_ids"])) % 2
        results = []
        for net in (model, graph):
            model.zero_grad()
            out = net(**given, labels=labels)
            out.loss.backward()
            results += [out.logits, model.bert.embeddings.word_embeddings.weight.grad.clone()]
        torch.testing.assert_close(results[2], results[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(results[3], results[1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", LABELS)
def test_an_export_with_labels(tiny: Callable[..., str], name: str) -> None:
    options = {"is_decoder": True, "use_cache": False} if name == "BertLMHeadModel" else {}
    model = getattr(minitrans, name).from_pretrained(tiny(name, f"{name}-export", **options)).double()
    given = batch(*BATCHES[0])
    given = {**given, **LABELS[name](given["input_ids"])}
    open_sizes = {key: dict.fromkeys(range(value.dim()), torch.export.Dim.DYNAMIC) for key, value in given.items()}
    graph = torch.export.export(model, (), given, dynamic_shapes=open_sizes).module()
    for case in BATCHES:
        given = batch(*case)
        given = {**given, **LABELS[name](given["input_ids"])}
        torch.testing.assert_close(graph(**given).loss, model(**given).loss, rtol=0, atol=1e-10)
