"""What all pipelines share: batches without loss, checkpoints without a head, padding or none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import minitrans
from minitrans import AutoModel, AutoTokenizer, RobertaConfig, RobertaModel
from minitrans.pipelines.base import longest_input, padded
from tests.pipelines.test_against_the_reference import TEXTS

HEADS = {
    "text-classification": ("BertForSequenceClassification", "classifier of texts"),
    "token-classification": ("BertForTokenClassification", "classifier of tokens"),
    "question-answering": ("BertForQuestionAnswering", "question-answering head"),
    "fill-mask": ("BertForMaskedLM", "masked-language-model head"),
}


def asked(task: str) -> dict[str, Any]:
    """Inputs of a task, of different lengths."""
    if task == "question-answering":
        return {"question": ["who ?", "where was ada born ?"], "context": [" ".join(TEXTS[:2]), TEXTS[2] * 4]}
    return {"inputs": [text + " [MASK]" for text in TEXTS] if task == "fill-mask" else TEXTS}


def numbers(found: Any) -> list[float]:
    """All numbers of a result, in their order."""
    if isinstance(found, dict):
        return numbers(list(found.values()))
    if isinstance(found, list):
        return [number for each in found for number in numbers(each)]
    return [float(found)] if isinstance(found, int | float) else []


@pytest.mark.parametrize("task", [*HEADS, "feature-extraction"])
def test_without_padding_the_numbers_are_the_same(tiny, task: str):
    folder = tiny(HEADS.get(task, ("BertModel",))[0])
    results, dimensions = {}, {}
    for padding in ("keep", "remove"):
        pipe = minitrans.pipeline(task, folder, dtype="float64", padding=padding)
        seen: list[int] = []
        block = pipe.model.base_model.get_submodule("encoder.layer.0")
        block.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(given[0].dim()))
        results[padding], dimensions[padding] = numbers(pipe(**asked(task), batch_size=3)), set(seen)
    assert dimensions["keep"] == {3}, "(B, T, D)"
    assert 2 in dimensions["remove"], "(N, D); a batch without padding stays as it is"
    assert len(set(results["keep"])) > 3
    assert results["remove"] == pytest.approx(results["keep"], abs=1e-12)


@pytest.mark.parametrize("task", [*HEADS, "feature-extraction"])
def test_any_batch_size_and_one_by_one(tiny, task: str):
    folder = tiny(HEADS.get(task, ("BertModel",))[0])
    pipe = minitrans.pipeline(task, folder, dtype="float64", batch_size=2)
    done: list[int] = []
    whole = pipe(**asked(task), progress=done.append)
    assert sum(done) >= 2
    assert max(done) == 2
    assert numbers(pipe(**asked(task), batch_size=100)) == pytest.approx(numbers(whole), abs=1e-12)
    if task != "question-answering":
        assert numbers([pipe(text) for text in asked(task)["inputs"]]) == pytest.approx(numbers(whole), abs=1e-12)
        assert pipe([]) == []


WRITERS = {"text-generation": ("BertLMHeadModel", {"is_decoder": True})}
ENTAILING: dict[str, Any] = {"num_labels": 3, "id2label": {0: "contradiction", 1: "neutral", 2: "entailment"}}
ZERO_SHOT = {"zero-shot-classification": ("BertForSequenceClassification", ENTAILING)}


@pytest.mark.parametrize("task", [*HEADS, "feature-extraction", *WRITERS, *ZERO_SHOT])
def test_a_stream_is_read_as_far_as_results_are_taken(tiny, task: str):
    name, changes = {**WRITERS, **ZERO_SHOT}.get(task, (HEADS.get(task, ("BertModel",))[0], {}))
    pipe = minitrans.pipeline(task, tiny(name, f"{task}-stream", **changes), dtype="float64", batch_size=2)
    options = (
        {"candidate_labels": "cat, dog"} if task in ZERO_SHOT else {"max_new_tokens": 2} if task in WRITERS else {}
    )
    texts = [f"{text} [MASK] {number}" for number, text in enumerate(TEXTS * 3)]
    given = [{"question": "who ?", "context": text} for text in texts] if task == "question-answering" else texts
    read: list[int] = []

    def source() -> Any:
        for number, each in enumerate(given):
            read.append(number)
            yield each

    stream = pipe(source(), **options)
    found = [next(stream)]
    assert read == [0, 1], "a batch"
    found += [next(stream), next(stream)]
    assert len(read) == 2 + 4
    found += stream
    assert read == [*range(12)]
    expected = pipe(given, **options)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), abs=1e-12)
        assert without_numbers(one) == without_numbers(other)

    class DataSet(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            return given[index]

    assert numbers([*pipe(DataSet(), **options)]) == pytest.approx(numbers(found[:3]), abs=1e-12)
    assert list(pipe(iter(()), **options)) == []


def without_numbers(found: Any) -> Any:
    """Keys and texts of a result."""
    if isinstance(found, dict | list):
        pairs = found.items() if isinstance(found, dict) else enumerate(found)
        return {key: without_numbers(value) for key, value in pairs}
    return found if isinstance(found, str) else None


@pytest.mark.parametrize("task", HEADS)
def test_a_fresh_head_is_refused(tiny, task: str):
    body = tiny("BertModel")
    with pytest.raises(ValueError, match=rf"has no trained {HEADS[task][1]} \(no .*\): this task needs one"):
        minitrans.pipeline(task, body)


def test_of_a_loaded_model(tiny):
    folder = tiny("BertForMaskedLM")
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    expected = minitrans.pipeline("feature-extraction", folder)("the cat")
    for given in (tokenizer, folder, Path(folder)):
        assert minitrans.pipeline("feature-extraction", model.train(), given)("the cat") == expected
    assert minitrans.pipeline("feature-extraction", folder, folder, device=-1)("the cat") == expected
    for options in ({}, {"tokenizer": tokenizer, "backend": "eager"}, {"tokenizer": tokenizer, "dtype": "float64"}):
        with pytest.raises(ValueError, match="a model that is loaded already needs its tokenizer"):
            minitrans.pipeline("feature-extraction", model, **options)


def test_words_of_loading_reach_model_and_tokenizer(tiny, tmp_path: Path):
    shutil.copytree(tiny("BertForMaskedLM"), tmp_path / "inner")
    words = {"subfolder": "inner", "token": False, "cache_dir": tmp_path, "attn_implementation": "eager"}
    pipe = minitrans.pipeline("fill-mask", tmp_path, torch_dtype="float64", **words, top_k=2)
    assert pipe.model.dtype == torch.float64
    assert len(pipe("the [MASK] sat")) == 2
    same = minitrans.pipeline("fill-mask", tmp_path, model_kwargs={"torch_dtype": "float64", "subfolder": "inner"})
    assert [guess["token"] for guess in same("the [MASK] sat", top_k=2)] == [
        guess["token"] for guess in pipe("the [MASK] sat")
    ]
    assert same.model.dtype == torch.float64
    with pytest.raises(ValueError, match="no words of loading, got cache_dir"):
        minitrans.pipeline("fill-mask", pipe.model, tmp_path / "inner", cache_dir=tmp_path)


def test_attention_and_backend_reach_the_model(tiny):
    folder = tiny("BertModel")
    plain = minitrans.pipeline("feature-extraction", folder)(TEXTS)
    window = {"name": "sliding_window", "window": 2}
    narrow = minitrans.pipeline("feature-extraction", folder, attention=window, backend="eager")(TEXTS)
    assert not np.allclose(plain[0], narrow[0])


def test_fresh_parameters_of_a_swapped_attention_are_no_missing_head(tiny):
    pipe = minitrans.pipeline("text-classification", tiny("BertForSequenceClassification"), attention="sink")
    assert pipe.model.load_report.fresh
    assert len(pipe(TEXTS)) == len(TEXTS)
    with pytest.raises(ValueError, match=r"has no trained classifier of texts \(no bert.pooler"):
        minitrans.pipeline("text-classification", tiny("BertForMaskedLM"), attention="sink")


def test_wrong_arguments(tiny):
    with pytest.raises(ValueError, match="task: expected one of text-classification, .*, ner, got 'chat'"):
        minitrans.pipeline("chat", "anywhere")
    pipe = minitrans.pipeline("ner", tiny("BertForTokenClassification"))
    with pytest.raises(ValueError, match="aggregation_strategy: expected one of none, simple, .*, got 'some'"):
        pipe("a", aggregation_strategy="some")
    with pytest.raises(TypeError, match="unexpected keyword argument 'stryde'"):
        pipe("a", stryde=3)
    classify = minitrans.pipeline("text-classification", tiny("BertForSequenceClassification"))
    with pytest.raises(ValueError, match="function_to_apply: expected one of sigmoid, softmax, none, got 'tanh'"):
        classify("a", function_to_apply="tanh")
    with pytest.raises(ValueError, match="expected at most 32 tokens, found 42; .*truncation=True"):
        classify("snow " * 40)
    fill = minitrans.pipeline("fill-mask", tiny("BertForMaskedLM"))
    with pytest.raises(ValueError, match=r"expected the mask token of this model, \[MASK\]"):
        fill(["a [MASK]", "a <mask>"])
    with pytest.raises(ValueError, match="targets: expected at least one word, got none"):
        fill("a [MASK]", targets=[])


def test_broken_weights_are_said_to_be(tiny):
    pipe = minitrans.pipeline("feature-extraction", tiny("BertModel"))
    with torch.no_grad():
        pipe.model.embeddings.LayerNorm.bias[0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        pipe("cat")


def test_padded_fields():
    rows = [
        {"input_ids": np.array([5, 6, 7]), "token_type_ids": np.array([0, 1, 1])},
        {"input_ids": [8], "token_type_ids": [1]},
    ]
    batch = padded(rows, 2, torch.device("cpu"))
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 2, 2]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "token_type_ids": [[0, 1, 1], [1, 0, 0]],
    }
    assert all(value.dtype == torch.int64 for value in batch.values())
    assert set(padded([{"input_ids": [1]}], 0, torch.device("cpu"))) == {"input_ids", "attention_mask"}


def test_roberta_has_fewer_places_than_positions():
    model = RobertaModel(
        RobertaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
                      max_position_embeddings=34, pad_token_id=1)
    )  # fmt: skip

    class Stub:
        model_max_length = 10**30

    assert longest_input(model, Stub()) == 32
