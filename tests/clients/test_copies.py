"""Models and tokenizers are copied, pickled, saved by torch, and used in worker processes that were forked or spawned."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import minitrans
from tests.clients.conftest import TEXTS


def by_torch(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), by_torch])
@pytest.mark.parametrize(
    "name", ["BertForMaskedLM", "MPNetForSequenceClassification", "DistilBertModel", "AlbertModel"]
)
def test_a_copy_of_a_model(tiny: Callable[..., str], batch: Any, again: Callable[[Any], Any], name: str) -> None:
    """The same numbers, its own memory, its ties kept; the copy can be saved, swapped and trained."""
    model = getattr(minitrans, name).from_pretrained(tiny(name), attention={"layers": {"0": "sink"}})
    given = {key: value for key, value in batch.items() if key != "token_type_ids"}
    other = again(model)
    with torch.no_grad():
        expected = model(**given).to_tuple()[0]
        assert torch.equal(other(**given).to_tuple()[0], expected)
    assert other.config == model.config
    shared = {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert not shared
    if name.endswith("MaskedLM"):
        assert other.lm_head.decoder.weight is other.get_input_embeddings().weight
    other.set_attention("full")
    other.resize_token_embeddings(50)
    assert model.config.vocab_size == 41
    with torch.no_grad():
        assert torch.equal(model(**given).to_tuple()[0], expected)


def test_a_state_dict_by_torch(tiny: Callable[..., str], batch: Any) -> None:
    """Read with weights_only, as torch does unless told otherwise."""
    model = minitrans.BertForMaskedLM.from_pretrained(tiny("BertForMaskedLM"))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = minitrans.BertForMaskedLM(model.config).eval()
    other.load_state_dict(torch.load(file))
    with torch.no_grad():
        assert torch.equal(other(**batch).logits, model(**batch).logits)


class Texts(torch.utils.data.Dataset[Any]):
    """Tokenizes, and runs a model on each text, where it is asked."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer, self.model = tokenizer, model

    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, index: int) -> Any:
        given = self.tokenizer(TEXTS[index], return_tensors="pt")
        with torch.no_grad():
            vector = self.model(**given).last_hidden_state[0, 0]
        return {"input_ids": given["input_ids"][0].tolist(), "vector": vector.tolist()}


class Collate:
    """Pads by the tokenizer, in the worker too."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        given = self.tokenizer.pad([{"input_ids": row["input_ids"]} for row in rows], return_tensors="pt")
        return given, torch.tensor([row["vector"] for row in rows])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader(tiny: Callable[..., str], tokenizer: Any, batch: Any, method: str) -> None:
    model = minitrans.BertModel.from_pretrained(tiny("BertModel"))
    with torch.no_grad():
        expected = model(**batch).last_hidden_state[:, 0]
    workers = 2 if method == "fork" else 1  # one that is spawned imports torch first
    options = {"batch_size": 3, "num_workers": workers, "multiprocessing_context": method}
    loader = DataLoader(Texts(tokenizer, model), collate_fn=Collate(tokenizer), **options)
    batches = list(loader)
    assert [len(given["input_ids"]) for given, _ in batches] == [3, 3, 2]
    for (given, vectors), start in zip(batches, (0, 3, 6), strict=True):
        torch.testing.assert_close(vectors, expected[start : start + 3], rtol=0, atol=1e-5)
        with torch.no_grad():
            again = model(**given).last_hidden_state[:, 0]
        torch.testing.assert_close(again, vectors, rtol=0, atol=1e-5)
