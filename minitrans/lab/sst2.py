"""SST-2, whether a sentence praises (Socher et al. 2013; the form of Wang et al. 2019, "GLUE"): accuracy of a linear probe."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minitrans.lab.bench import Bench
from minitrans.lab.probe import Probed, probed
from minitrans.lab.specs import Subject
from minitrans.training.data.encoding import class_of
from minitrans.training.data.table import read_table

TRAIN, DEV = "sst2/train.tsv", "sst2/dev.tsv"


def sst2(bench: Bench, subject: Subject, seed: int, *, train: int = 2000) -> dict[str, Any]:
    """On the development set, the probe fitted to `train` texts, evenly out of all; the vectors are those of sentences."""
    return probed(bench, subject, seed, _task(train))


def read_sentences(path: Path) -> tuple[list[str], Tensor]:
    """Sentences and labels of a file with a header: label, tab, sentence. Raises ValueError, naming the line that is none."""
    rows = read_table(path, ("label", "sentence"))[1:]  # headers differ
    return rows.column("sentence"), torch.tensor(rows.map(lambda row: class_of(row["label"], ("0", "1"))))


@lru_cache
def _task(number: int) -> Probed:
    return Probed("sst2", number, _read, _vectors, _accuracy, 2)


def _read(bench: Bench, number: int) -> tuple[tuple[list[str], Tensor], tuple[list[str], Tensor]]:
    sentences, labels = read_sentences(bench.files[TRAIN])
    chosen = torch.arange(min(number, len(labels))) * len(labels) // min(number, len(labels))
    return ([sentences[place] for place in chosen.tolist()], labels[chosen]), read_sentences(bench.files[DEV])


def _vectors(bench: Bench, sentences: list[str]) -> Tensor:
    vectors: Tensor = bench.encoder.encode(sentences, normalize=True)
    return vectors


def _accuracy(found: Sequence[int], _: list[str], labels: Tensor) -> float:
    return 100 * float((torch.tensor(found) == labels).double().mean())
