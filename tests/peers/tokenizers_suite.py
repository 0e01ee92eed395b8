"""The reference's common tests of tokenizers, for each published vocabulary that there is."""

from __future__ import annotations

import atexit
import importlib
import json
import os
import shutil
import tempfile
import unittest
from pathlib import Path
from typing import Any

from shim import OURS, install

transformers: Any = install()
from minitrans.families import FAMILIES  # noqa: E402

common = importlib.import_module("tests.test_tokenization_common")
SOURCE = Path(os.environ["PEERS_TOKENIZERS"])
WORK = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, WORK, ignore_errors=True)
PUBLISHED = {"bert": "bert-base-uncased", "roberta": "roberta-base", "xlm-roberta": "xlm-roberta-base"}
WANTED = os.environ.get("PEERS_FAMILIES", "").split() or list(PUBLISHED)


def checkpoint(family: str) -> str:
    """A folder with all the files that a tokenizer is published with."""
    folder = WORK / family
    shutil.copytree(SOURCE / PUBLISHED[family], folder)
    getattr(transformers, FAMILIES[family].tokenizer).from_pretrained(str(folder)).save_pretrained(str(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    return str(folder)


def suite(family: str) -> type[unittest.TestCase]:
    """Their common tests, of one vocabulary."""

    kind = getattr(transformers, FAMILIES[family].tokenizer)
    if OURS and not kind.__module__.startswith("minitrans."):
        raise RuntimeError(f"{kind} is theirs")

    class Suite(common.TokenizerTesterMixin, unittest.TestCase):  # type: ignore[misc, name-defined]
        tokenizer_class = kind
        from_pretrained_id = (checkpoint(family),)
        test_tokenizer_from_extractor = False

    Suite.__name__ = Suite.__qualname__ = f"{FAMILIES[family].prefix}TokenizerTest"
    return Suite


if not (Path(common.__file__).parent / "fixtures" / "sample_text.txt").is_file():  # a source distribution lacks it
    (WORK / "fixtures").mkdir()
    (WORK / "fixtures" / "sample_text.txt").write_text("One text.\n\nAnd another, of two lines.\n", encoding="utf-8")
    common.get_tests_dir = lambda: str(WORK)
if OURS:
    import minitrans

    common.AutoTokenizer, common.BatchEncoding = minitrans.AutoTokenizer, minitrans.BatchEncoding
for _family in WANTED:
    if (SOURCE / PUBLISHED[_family]).is_dir():
        _suite = suite(_family)
        globals()[_suite.__name__] = _suite
        del _suite
