"""The STS benchmark (Cer et al. 2017, "SemEval-2017 Task 1"): cosines of sentence vectors against human judgement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minitrans.files import printable
from minitrans.training.data.table import read_table

TEST_FILE, TRAIN_FILE = "stsb-en-test.csv", "stsb-en-train.csv"


@dataclass(frozen=True)
class Pair:
    """Two sentences and how alike people find them, 0 to 5."""

    first: str
    second: str
    score: float


def read_pairs(path: Path) -> list[Pair]:
    """The rows of a file of the STS benchmark: sentence, sentence, score, no header.

    Raises:
        ValueError: naming the line that is something else.
    """
    rows = read_table(path, ("first", "second", "score"))
    pairs = rows.map(lambda row: Pair(row["first"], row["second"], float(row["score"])))
    if len(pairs) < 2:
        raise ValueError(f"{printable(path)}: expected at least two pairs, found {len(pairs)}")
    return pairs


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value from 1; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    result = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for index in order[start:end]:
            result[index] = (start + 1 + end) / 2
        start = end
    return result


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """The correlation of the ranks; ties as `ranks` treats them. Raises ValueError where one side is constant."""
    one, two = ranks(first), ranks(second)
    mean = (len(one) + 1) / 2
    covariance = sum((a - mean) * (b - mean) for a, b in zip(one, two, strict=True))
    spread = sum((a - mean) ** 2 for a in one) * sum((b - mean) ** 2 for b in two)
    if spread == 0.0:
        raise ValueError("all values of one side are equal: there is no correlation")
    return float(covariance / spread**0.5)
