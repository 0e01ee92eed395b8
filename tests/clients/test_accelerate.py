"""accelerate: prepare, gather, mixed precision on a CPU, and what it saves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import minitrans
from tests.clients.conftest import LABELS

accelerate = pytest.importorskip("accelerate")

from accelerate.state import AcceleratorState, GradientState, PartialState  # noqa: E402

Both = Callable[..., tuple[Any, Any]]


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Its settings are the process's."""
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def train(
    model: Any, batch: dict[str, torch.Tensor], accelerator: Any, steps: int = 3
) -> tuple[list[float], torch.Tensor]:
    """The losses of all small batches, step by step, and the logits of all texts afterwards, gathered."""
    data = TensorDataset(batch["input_ids"], batch["attention_mask"], torch.tensor(LABELS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    loader = DataLoader(data, batch_size=2)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    model.train()
    losses = []
    for _ in range(steps):
        for ids, mask, labels in loader:
            with accelerator.accumulate(model):
                out = model(input_ids=ids, attention_mask=mask, labels=labels)
                accelerator.backward(out.loss)
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            losses.append(out.loss.item())
    model.eval()
    logits = []
    with torch.no_grad():
        for ids, mask, _ in loader:
            out = model(input_ids=ids, attention_mask=mask)
            assert out.logits.dtype == torch.float32
            logits.append(accelerator.gather_for_metrics(out.logits))
    return losses, torch.cat(logits)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_trains_as_the_reference_does(both: Both, batch: Any, accumulated: int) -> None:
    results = []
    for model in both("ForSequenceClassification", num_labels=3):
        results.append(train(model, batch, accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulated)))
    (losses, logits), (expected, expected_logits) = results
    assert sum(losses[-4:]) < sum(losses[:4])
    assert losses == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-3, atol=1e-3)


def test_mixed_precision(both: Both, batch: Any) -> None:
    """Outputs are float32 again, parameters and gradients float32, and no further from the exact ones than the reference's."""
    labels = torch.tensor(LABELS)
    errors = []
    for model in both("ForSequenceClassification", num_labels=3):
        exact = model(**batch, labels=labels, output_hidden_states=True)
        prepared = accelerate.Accelerator(cpu=True, mixed_precision="bf16").prepare(model)
        out = prepared(**batch, labels=labels, output_hidden_states=True)
        assert {out.loss.dtype, out.logits.dtype, *(state.dtype for state in out.hidden_states)} == {torch.float32}
        out.loss.backward()
        assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {
            torch.float32
        }
        errors.append(float((out.logits - exact.logits).detach().abs().max()))
        AcceleratorState._reset_state()
    assert 0 < errors[0] <= 2 * errors[1]


def test_training_in_mixed_precision(both: Both, batch: Any) -> None:
    model, _ = both("ForSequenceClassification", num_labels=3)
    losses, _ = train(model, batch, accelerate.Accelerator(cpu=True, mixed_precision="bf16"))
    assert sum(losses[-4:]) < sum(losses[:4])


def test_gather_and_reduce_whole_outputs(both: Both, batch: Any) -> None:
    """An output may be handed over as it is: it is a mapping to accelerate."""
    accelerator = accelerate.Accelerator(cpu=True)
    model = accelerator.prepare(both("ForSequenceClassification", num_labels=3)[0])
    with torch.no_grad():
        out = model(**batch, output_hidden_states=True)
    for got in (accelerator.gather(out), accelerator.reduce(out, "sum"), accelerate.utils.send_to_device(out, "cpu")):
        assert type(got) is type(out)
        assert torch.equal(got.logits, out.logits)
        assert all(map(torch.equal, got.hidden_states, out.hidden_states))


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForMaskedLM"])
def test_save_model_and_back(both: Both, batch: Any, head: str, tmp_path: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    model, _ = both(head)
    prepared = accelerator.prepare(model)
    accelerator.save_model(prepared, str(tmp_path / "weights"))
    again = type(model).from_pretrained(tmp_path / "weights", config=model.config)
    other = type(model)(model.config)
    accelerate.load_checkpoint_in_model(other, str(tmp_path / "weights"))
    other.tie_weights()
    with torch.no_grad():
        expected = model(**batch).logits
        assert torch.equal(again(**batch).logits, expected)
        assert torch.equal(other.eval()(**batch).logits, expected)


def test_state_and_back(both: Both, batch: Any, tmp_path: Path) -> None:
    model, _ = both("ForMaskedLM")
    accelerator = accelerate.Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    accelerator.save_state(str(tmp_path / "state"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    accelerator.backward(prepared(**batch, labels=batch["input_ids"]).loss)
    optimizer.step()
    assert not torch.equal(model.lm_head.decoder.weight, before["lm_head.decoder.weight"])
    accelerator.load_state(str(tmp_path / "state"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.lm_head.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_without_memory_then_from_disk(both: Both, batch: Any, tmp_path: Path) -> None:
    """A model made without memory, filled from a file, with its blocks on the disk until they are needed."""
    model, _ = both("ForMaskedLM")
    accelerate.Accelerator(cpu=True).save_model(model, str(tmp_path / "weights"))
    with accelerate.init_empty_weights():
        empty = minitrans.BertForMaskedLM(model.config)
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.tie_weights()
    places = {"bert.embeddings": "cpu", "bert.encoder": "disk", "lm_head": "cpu"}
    filled = accelerate.load_checkpoint_and_dispatch(
        empty, str(tmp_path / "weights"), device_map=places, offload_folder=str(tmp_path / "offload")
    )
    with torch.no_grad():
        torch.testing.assert_close(filled.eval()(**batch).logits, model(**batch).logits, rtol=0, atol=1e-6)


def _two_processes(folder: str) -> None:
    """One of two processes: each sees half of the texts, and gathers all."""
    accelerator = accelerate.Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    given = torch.load(f"{folder}/batch.pt")
    model = minitrans.BertForSequenceClassification.from_pretrained(given.pop("folder"))
    data = TensorDataset(given["input_ids"], given["attention_mask"], torch.tensor(LABELS))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(data, batch_size=2))
    for ids, mask, labels in loader:
        accelerator.backward(model(input_ids=ids, attention_mask=mask, labels=labels).loss)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        rows = [accelerator.gather_for_metrics(model(input_ids=ids, attention_mask=mask)) for ids, mask, _ in loader]
    if accelerator.is_main_process:
        torch.save(torch.cat([row.logits for row in rows]), f"{folder}/logits.pt")


def test_two_processes(both: Both, batch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one process with batches of twice the size: the mean of the gradients is the gradient of the mean."""
    model, theirs = both("ForSequenceClassification", num_labels=3)
    torch.save({**batch, "folder": theirs.name_or_path}, tmp_path / "batch.pt")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # accelerate warns where nobody says
    accelerate.debug_launcher(_two_processes, args=(str(tmp_path),), num_processes=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for start in (0, 4):
        rows = slice(start, start + 4)
        part = {name: value[rows] for name, value in batch.items()}
        model(**part, labels=torch.tensor(LABELS[rows])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        expected = model.eval()(**batch).logits
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, rtol=0, atol=1e-5)
