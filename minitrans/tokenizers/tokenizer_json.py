"""Reading a `tokenizer.json`: the library parses it; the options of its pipeline are read and restated here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from minitrans.files import read_json
from minitrans.tokenizers.guards import blamed_on, faults_after, faults_before, refuse_first

# Option of the constructor -> where the file keeps it: section, the type of the part, its key.
PIPELINE_OPTIONS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "do_lower_case": (("normalizer", "BertNormalizer", "lowercase"),),
    "strip_accents": (("normalizer", "BertNormalizer", "strip_accents"),),
    "tokenize_chinese_chars": (("normalizer", "BertNormalizer", "handle_chinese_chars"),),
    "add_prefix_space": (
        ("pre_tokenizer", "ByteLevel", "add_prefix_space"),
        ("post_processor", "RobertaProcessing", "add_prefix_space"),
    ),
    "trim_offsets": (("post_processor", "RobertaProcessing", "trim_offsets"),),
}


def _place(document: Mapping[str, Any], section: str, kind: str) -> dict[str, Any]:
    """The part of that type in a section, an empty one if it is of another."""
    part = document.get(section)
    return part if isinstance(part, dict) and part.get("type") == kind else {}


def read_options(document: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline options that a parsed tokenizer.json states."""
    first = {option: places[0] for option, places in PIPELINE_OPTIONS.items()}
    return {
        option: _place(document, section, kind)[key]
        for option, (section, kind, key) in first.items()
        if key in _place(document, section, kind)
    }


def read_tokenizer_json(
    given: str | Path | Backend, model_kind: str | None, options: Mapping[str, Any]
) -> tuple[Backend, dict[str, Any]]:
    """The backend that a tokenizer.json describes, without its truncation and padding, and the parsed file.

    Args:
        given: the file, or a backend to copy.
        model_kind: the kind of model the caller needs ("WordPiece", "BPE", "Unigram"), or None for any.
        options: pipeline options to put in place of the file's own, by the names of PIPELINE_OPTIONS.

    Raises:
        CheckpointError: naming the file and the key, if it is broken, of another kind, or hostile.
    """
    path = Path("tokenizer_object" if isinstance(given, Backend) else given)
    document = json.loads(given.to_str()) if isinstance(given, Backend) else read_json(path)
    if isinstance(document.get("model"), dict) and model_kind is not None:
        document["model"].setdefault("type", model_kind)  # files of tokenizers < 0.9 do not say
    refuse_first(path, faults_before(document, model_kind))
    for option, value in options.items():
        for section, kind, key in PIPELINE_OPTIONS[option]:
            _place(document, section, kind)[key] = value
    with blamed_on(path):
        backend = Backend.from_str(json.dumps(document))
        refuse_first(path, faults_after(document, backend))
    backend.no_truncation()
    backend.no_padding()
    return backend, document
