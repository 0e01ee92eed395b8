"""Classes by entailment, against the reference."""

from __future__ import annotations

import pytest

import minitrans
from tests.pipelines.conftest import their_tokenizer

TEXTS = ["the cat sat on the mat", "Ada", "a city in france , paris and london"]


def test_classes_by_entailment_as_the_reference(tiny):
    transformers = pytest.importorskip("transformers")
    names = {0: "contradiction", 1: "neutral", 2: "entailment"}
    place = tiny(
        "BertForSequenceClassification", "entailment", num_labels=3, id2label=names,
        label2id={name: number for number, name in names.items()},
    )  # fmt: skip
    model = transformers.BertForSequenceClassification.from_pretrained(place).double().eval()
    theirs = transformers.pipeline(
        "zero-shot-classification", model=model, tokenizer=their_tokenizer(place), device="cpu"
    )
    ours = minitrans.pipeline("zero-shot-classification", place, dtype="float64")
    for options in ({}, {"multi_label": True}, {"hypothesis_template": "{} is in the city"}):
        found, expected = (pipe(TEXTS[0], ["cat", "france", "Ada"], **options) for pipe in (ours, theirs))
        assert found["labels"] == expected["labels"]
        assert found["scores"] == pytest.approx(expected["scores"], abs=1e-6)
        assert ours(TEXTS, "cat, france,Ada", **options)[0]["scores"] == pytest.approx(found["scores"], abs=1e-12)
    with pytest.raises(ValueError, match="candidate_labels: give at least one label"):
        ours(TEXTS[0], [])
    with pytest.raises(ValueError, match="where the label goes"):
        ours(TEXTS[0], ["cat"], hypothesis_template="this")
    plain = minitrans.pipeline("zero-shot-classification", tiny("BertForSequenceClassification"))
    with pytest.raises(ValueError, match="a label must begin with 'entail'"):
        plain(TEXTS[0], ["cat"])
