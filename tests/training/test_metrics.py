"""Scores against the formulas themselves, on few numbers."""

from __future__ import annotations

import numpy
import pytest
import sacrebleu

from minitrans.lab.sts import spearman
from minitrans.lab.wnut17 import entities as entities_of
from minitrans.lab.wnut17 import f1 as f1_of
from minitrans.training import metrics


def test_classes():
    right = [0, 0, 1, 1, 2, 2, 2]
    found = [0, 1, 1, 1, 2, 0, 2]
    scores = metrics.classes(found, right, 3)
    assert scores["accuracy"] == pytest.approx(100 * 5 / 7)
    assert scores["f1"] == pytest.approx(100 * (0.5 + 0.8 + 0.8) / 3)
    assert metrics.classes(right, right, 3) == pytest.approx({"accuracy": 100, "f1": 100, "matthews": 100})


def test_numbers():
    right, found = [1.0, 2.0, 2.0, 5.0, 4.0], [0.1, 0.5, 0.3, 0.9, 0.9]
    scores = metrics.numbers(found, right)
    assert scores["pearson"] == pytest.approx(100 * numpy.corrcoef(found, right)[0, 1])
    assert scores["spearman"] == pytest.approx(100 * spearman(found, right))
    assert metrics.numbers([1.0, 1.0], [0.0, 1.0]) == {"pearson": 0.0, "spearman": 0.0}


def test_entities_are_whole():
    right = [["B-a", "I-a", "O", "B-b"], ["O", "B-a"], ["O"]]
    found = [["B-a", "O", "O", "B-b"], ["O", "B-a"], ["O"]]
    scores = metrics.entities(found, right)
    assert scores["f1"] == pytest.approx(100 * 2 / 3)
    assert scores["f1"] == pytest.approx(f1_of([*map(entities_of, found)], [*map(entities_of, right)]))
    assert scores["accuracy"] == pytest.approx(100 * 6 / 7)
    assert metrics.entities([["O", "O"]], [["O", "B-a"]])["f1"] == 0.0


def test_answers():
    scores = metrics.answers(["the cat sat", "Paris"], [["cat sat."], ["London", "in Paris"]])
    assert scores == pytest.approx({"exact_match": 50.0, "f1": 100 * (1 + 2 / 3) / 2})


def test_translations():
    right = ["Zwei Männer gehen die Straße entlang .", "Ein Hund rennt ."]
    scores = metrics.translations(["Zwei Männer gehen die Straße .", "Ein Hund rennt ."], right)
    assert 0 < scores["bleu"] < 100
    assert metrics.translations(right, right)["bleu"] == pytest.approx(100)
    assert sacrebleu.metrics.BLEU().corpus_score(right[::-1], [right]).score == pytest.approx(
        metrics.translations(right[::-1], right)["bleu"]
    )
    assert metrics.perplexity(0.0) == 1.0
    assert metrics.perplexity(1e9) == float("inf")
