"""A tiny encoder and a few sentences, in the shape of the files that the lab reads."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from minitrans.embedding import Encoder
from minitrans.lab.bench import Bench
from minitrans.lab.sections import find_files
from tests.cli.conftest import WORDS, body, run, tiny  # noqa: F401 (fixtures)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    words = [word for word in WORDS if word.isalpha()]
    rows = [f"{' '.join(words[i : i + 5])},{' '.join(words[i + j % 4 : i + 6])},{j}.0" for j, i in enumerate(range(20))]
    for name in ("stsb-en-test.csv", "stsb-en-train.csv"):
        (folder / name).write_text("\n".join(rows) + "\n")
    (folder / "wikitext2").mkdir()
    with gzip.open(folder / "wikitext2" / "test.txt.gz", "wt") as file:
        file.write(" = Ada = \n\n" + "".join(f" {' '.join(words[i % 20 :] + words[: i % 13])} \n" for i in range(20)))
    return folder


@pytest.fixture
def bench(body: str, data: Path) -> Bench:  # noqa: F811
    return Bench(Encoder(body), find_files(["swap", "heal", "fidelity"], data))
