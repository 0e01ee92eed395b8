"""Reading a `tokenizer.json`: an untrusted file, checked here because the library panics on some and bends others."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from minitrans.errors import CheckpointError
from minitrans.files import printable, read_json
from minitrans.tokenizers.backend import blamed_on, probe, require_dense_ids

MODELS = ("WordPiece", "BPE", "Unigram", "WordLevel")

# The library's regular expressions backtrack: only these, each linear in the text, may come from a file.
LINEAR_PATTERNS = frozenset(
    {
        " {2,}",
        r"\s+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    }
)

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


def read_options(document: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline options that a parsed tokenizer.json states."""
    stated = {}
    for option, places in PIPELINE_OPTIONS.items():
        section, kind, key = places[0]
        part = document.get(section)
        if isinstance(part, dict) and part.get("type") == kind and key in part:
            stated[option] = part[key]
    return stated


def _restate(document: dict[str, Any], options: Mapping[str, Any]) -> None:
    for option, value in options.items():
        for section, kind, key in PIPELINE_OPTIONS[option]:
            part = document.get(section)
            if isinstance(part, dict) and part.get("type") == kind:
                part[key] = value


def _vocabulary(model: Mapping[str, Any], origin: Path) -> dict[str, int]:
    """Token -> id of the model part. Raises CheckpointError on anything that is not a plain vocabulary."""
    entries = model.get("vocab")
    if model["type"] != "Unigram":
        if not isinstance(entries, dict):
            raise CheckpointError(
                f"{printable(origin)}: model.vocab: expected an object, found {type(entries).__name__}"
            )
        return entries
    if not isinstance(entries, list):
        raise CheckpointError(f"{printable(origin)}: model.vocab: expected a list, found {type(entries).__name__}")
    vocabulary: dict[str, int] = {}
    for index, entry in enumerate(entries):
        if not (
            isinstance(entry, list)
            and len(entry) == 2
            and isinstance(entry[0], str)
            and type(entry[1]) in (int, float)
            and math.isfinite(entry[1])
        ):
            raise CheckpointError(
                f"{printable(origin)}: model.vocab[{index}]: expected a piece and a score, found {printable(entry)}"
            )
        if vocabulary.setdefault(entry[0], index) != index:
            raise CheckpointError(
                f"{printable(origin)}: model.vocab[{index}]: {printable(entry[0])!r}: expected each piece once, "
                f"found it as id {vocabulary[entry[0]]} already"
            )
    return vocabulary


def _require_unknown(model: Mapping[str, Any], vocabulary: Mapping[str, int], origin: Path) -> None:
    if model["type"] == "Unigram":
        index = model.get("unk_id")
        if index is None and model.get("byte_fallback") is True:
            return
        if type(index) is not int or not 0 <= index < len(vocabulary):
            raise CheckpointError(
                f"{printable(origin)}: model.unk_id: expected an id below {len(vocabulary)}, found {printable(index)}"
            )
        return
    unknown = model.get("unk_token")
    if unknown is None and model["type"] == "BPE":
        return
    if not isinstance(unknown, str) or unknown not in vocabulary:
        raise CheckpointError(
            f"{printable(origin)}: model.unk_token: expected a token of the vocabulary, found {printable(unknown)!r}"
        )


def _require_merges(model: Mapping[str, Any], vocabulary: Mapping[str, int], origin: Path) -> None:
    merges = model.get("merges")
    prefix = model.get("continuing_subword_prefix") or ""
    if not isinstance(merges, list) or not isinstance(prefix, str):
        raise CheckpointError(f"{printable(origin)}: model.merges: expected a list, found {type(merges).__name__}")
    for index, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) and part for part in pair)):
            raise CheckpointError(
                f"{printable(origin)}: model.merges[{index}]: expected two symbols, found {printable(merge)!r}"
            )
        left, right = pair
        if not right.startswith(prefix):
            raise CheckpointError(
                f"{printable(origin)}: model.merges[{index}]: {printable(right)!r}: "
                f"expected the prefix {printable(prefix)!r}"
            )
        for token in (left, right, left + right[len(prefix) :]):
            if token not in vocabulary:
                raise CheckpointError(
                    f"{printable(origin)}: model.merges[{index}]: expected tokens of model.vocab, "
                    f"found {printable(token)!r}, which is not there"
                )


def _declared_tokens(document: Mapping[str, Any], vocabulary: Mapping[str, int], origin: Path) -> dict[str, int]:
    """The added tokens of the file. Raises CheckpointError if one has another id in the model, or an impossible one."""
    entries = document.get("added_tokens") or []
    if not isinstance(entries, list):
        raise CheckpointError(f"{printable(origin)}: added_tokens: expected a list, found {type(entries).__name__}")
    declared: dict[str, int] = {}
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str) or not entry["content"]:
            raise CheckpointError(
                f"{printable(origin)}: added_tokens[{position}]: expected an object with a text, found {printable(entry)}"
            )
        content, index = entry["content"], entry.get("id", -1)
        known = vocabulary.get(content, declared.get(content))
        if known is not None and known != index:
            raise CheckpointError(
                f"{printable(origin)}: added_tokens[{position}]: {printable(content)!r}: expected id {known}, "
                f"found {printable(index)}"
            )
        declared[content] = index
    return declared


def _patterns(part: object) -> Iterator[str]:
    """The regular expressions inside a section, wherever they are nested."""
    pending = [part]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "Regex" and isinstance(value, str):
                    yield value
                else:
                    pending.append(value)
        elif isinstance(node, list):
            pending.extend(node)


def _require_template(backend: Backend, part: object, origin: Path) -> None:
    """Raises CheckpointError unless each special token of the post-processor has its id of the vocabulary."""
    if not isinstance(part, dict):
        return
    pairs: list[tuple[object, object]] = [tuple(part[key]) for key in ("sep", "cls") if isinstance(part.get(key), list)]
    specials = part.get("special_tokens")
    for special in specials.values() if isinstance(specials, dict) else ():
        pairs += zip(special.get("tokens", ()), special.get("ids", ()), strict=False)
    for token, index in pairs:
        found = backend.token_to_id(str(token))
        if found != index:
            raise CheckpointError(
                f"{printable(origin)}: post_processor: {printable(token)!r}: expected {found}, the vocabulary's id, "
                f"found {printable(index)}"
            )
    for step in part.get("processors") or ():
        _require_template(backend, step, origin)


def read_tokenizer_json(
    path: str | Path, model_kind: str | None, options: Mapping[str, Any]
) -> tuple[Backend, dict[str, Any]]:
    """The backend that a tokenizer.json describes, and the parsed file.

    Args:
        path: the file.
        model_kind: the kind of model the caller needs ("WordPiece", "BPE", "Unigram"), or None for any.
        options: pipeline options to put in place of the file's own, by the names of PIPELINE_OPTIONS.

    Raises:
        CheckpointError: naming the file and the key, if it would give an error, a panic or other ids than it states.
    """
    path = Path(path)
    document = read_json(path)
    model = document.get("model")
    if not isinstance(model, dict):
        raise CheckpointError(f"{printable(path)}: model: expected an object, found {type(model).__name__}")
    if "type" not in model and model_kind is not None:
        model["type"] = model_kind  # files of tokenizers < 0.9 do not say
    if model.get("type") not in MODELS:
        raise CheckpointError(
            f"{printable(path)}: model.type: expected one of {', '.join(MODELS)}, "
            f"found {printable(model.get('type'))!r}"
        )
    if model_kind is not None and model["type"] != model_kind:
        raise CheckpointError(
            f"{printable(path)}: model.type: expected {model_kind}, found {model['type']}; "
            "is it another family's tokenizer?"
        )
    vocabulary = _vocabulary(model, path)
    declared = _declared_tokens(document, vocabulary, path)
    require_dense_ids({**vocabulary, **declared}, path)
    _require_unknown(model, vocabulary, path)
    if model["type"] == "BPE":
        _require_merges(model, vocabulary, path)
    for section in ("normalizer", "pre_tokenizer", "decoder"):
        for pattern in _patterns(document.get(section)):
            if pattern not in LINEAR_PATTERNS:
                raise CheckpointError(
                    f"{printable(path)}: {section}: the regular expression {printable(pattern)!r} is not one of "
                    "those known to run in linear time"
                )
    _restate(document, options)
    with blamed_on(path):
        backend = Backend.from_str(json.dumps(document))
    for content, index in declared.items():
        found = backend.token_to_id(content)
        if found != index:
            raise CheckpointError(
                f"{printable(path)}: added_tokens: {printable(content)!r}: expected id {found}, found {index}"
            )
    with blamed_on(path):
        _require_template(backend, document.get("post_processor"), path)
    backend.no_truncation()
    backend.no_padding()
    probe(backend, path)
    return backend, document
