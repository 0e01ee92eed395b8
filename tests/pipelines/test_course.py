"""Scripts as courses show them run with one import changed; their models are random ones of the same kinds."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

import minitrans
from minitrans.tokenizers.auto import MarianTokenizer

SCRIPT = """
from transformers import pipeline

classifier = pipeline("sentiment-analysis")
sentiment = classifier(["I have been waiting for this my whole life.", "I hate this!"])

zero_shot = pipeline("zero-shot-classification")
topics = zero_shot("A course about the library", candidate_labels=["education", "politics", "business"])

unmasker = pipeline("fill-mask")
words = unmasker("This course is about <mask> models.", top_k=2)

ner = pipeline("ner", grouped_entities=True)
names = ner("Ada was born in London.")

question_answerer = pipeline("question-answering")
answer = question_answerer(question="Where was Ada born?", context="Ada Lovelace was born in London, a city.")

summarizer = pipeline("summarization")
summary = summarizer("The cat sat on the mat, and the dog walked in the snow of the old city at night.")

translator = pipeline("translation", model="Helsinki-NLP/opus-mt-fr-en")
translation = translator("Ada est née à Londres.")
"""
PAIR: dict[str, Any] = {
    "d_model": 12, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 64, "init_std": 0.5,
}  # fmt: skip
BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
SMALL = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 20, "num_labels": 2}
ENTAILING = {"num_labels": 3, "id2label": {0: "contradiction", 1: "neutral", 2: "entailment"}}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "distilbert/distilbert-base-uncased-finetuned-sst-2-english": ("DistilBertForSequenceClassification", SMALL),
    "facebook/bart-large-mnli": ("BartForSequenceClassification", {**PAIR, **ENTAILING}),
    "distilbert/distilroberta-base": ("RobertaForMaskedLM", BERT),
    "dbmdz/bert-large-cased-finetuned-conll03-english": ("BertForTokenClassification", {**BERT, "num_labels": 3}),
    "distilbert/distilbert-base-cased-distilled-squad": ("DistilBertForQuestionAnswering", SMALL),
    "sshleifer/distilbart-cnn-12-6": ("BartForConditionalGeneration", PAIR),
    "Helsinki-NLP/opus-mt-fr-en": ("MarianMTModel", {**PAIR, "decoder_start_token_id": 1, "eos_token_id": 2}),
}


@pytest.fixture
def cache(tmp_path: Path, tiny: Any, byte_level: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache with these models in it, and no network."""
    words, pieces = tiny("BertModel"), byte_level("RobertaModel")
    for name, (kind, sizes) in MODELS.items():
        repository = tmp_path / f"models--{name.replace('/', '--')}"
        folder = repository / "snapshots" / "0"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0")
        cls = getattr(minitrans, kind)
        is_wordpiece = "Bert" in kind
        vocabulary = minitrans.AutoTokenizer.from_pretrained(words if is_wordpiece else pieces)
        pad = {} if is_wordpiece else {"pad_token_id": 1}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            cls(cls.config_class(vocab_size=len(vocabulary), **pad, **sizes)).save_pretrained(folder)
        if kind == "MarianMTModel":
            MarianTokenizer(tokenizer_object=vocabulary.backend_tokenizer).save_pretrained(folder)
        for each in ("vocab.txt",) if is_wordpiece else ("vocab.json", "merges.txt"):
            if kind != "MarianMTModel":
                shutil.copy(Path(words if is_wordpiece else pieces) / each, folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("cache")
def test_the_first_chapter_runs(caplog: pytest.LogCaptureFixture):
    found: dict[str, Any] = {}
    with caplog.at_level(logging.WARNING, "minitrans"):
        exec(SCRIPT.replace("from transformers import", "from minitrans import"), found)
    assert sum("no model is named" in record.getMessage() for record in caplog.records) == 6
    assert [set(each) for each in found["sentiment"]] == [{"label", "score"}] * 2
    assert sorted(found["topics"]["labels"]) == ["business", "education", "politics"]
    assert [set(each) for each in found["words"]] == [{"score", "token", "token_str", "sequence"}] * 2
    assert all(each.keys() == {"entity_group", "score", "word", "start", "end"} for each in found["names"])
    assert set(found["answer"]) == {"score", "start", "end", "answer"}
    assert found["answer"]["answer"] in "Ada Lovelace was born in London, a city."
    assert [set(each) for each in found["summary"]] == [{"summary_text"}]
    assert [set(each) for each in found["translation"]] == [{"translation_text"}]
    assert isinstance(found["translation"][0]["translation_text"], str)
