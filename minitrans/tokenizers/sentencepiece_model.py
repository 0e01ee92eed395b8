"""Unigram from a `sentencepiece.bpe.model` or `spiece.model` (Kudo 2018; XLM-RoBERTa, CamemBERT, ALBERT).

The pieces move into a Unigram model of the `tokenizers` library, which knows offsets; sentencepiece itself is the judge
of the file, and the tests compare the ids of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import Unigram

from minitrans.errors import CheckpointError
from minitrans.files import printable, require_regular_file
from minitrans.tokenizers.backend import token_and_id

_MAX_BYTES = 64 * 1024 * 1024  # XLM-R's file has 5 MB, the largest public ones 5 to 10
_UNIGRAM = 1  # TrainerSpec.model_type
SPACE = "▁"

Pieces = list[tuple[str, float]]


@dataclass(frozen=True)
class SentencePieceModel:
    """What a sentencepiece file says: pieces with scores in the order of their ids, and the table of its normalizer."""

    path: Path
    pieces: Pieces
    user_defined: list[str]
    charsmap: bytes


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields (number, value) of one protocol-buffer message, for data that sentencepiece has parsed already."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if size is None:
            size, at = _varint(data, at)
        yield key >> 3, data[at : at + size]
        at += size


def _piece_kind(piece: bytes) -> int:
    """The type of a piece: 1 normal, 4 user defined, and others. A short text (10) and a score (21) alone are normal."""
    if len(piece) > 1 and piece[0] == 10 and len(piece) == piece[1] + 7 and piece[-5] == 21:
        return 1
    return next((kind for number, kind in _fields(piece) if number == 3 and isinstance(kind, int)), 1)


def read_model(path: str | Path) -> SentencePieceModel:
    """Reads and checks a sentencepiece file. Raises CheckpointError if it is cut, foreign, or not a unigram model."""
    from sentencepiece import SentencePieceProcessor

    path = Path(path)
    require_regular_file(path, _MAX_BYTES)
    data = path.read_bytes()
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{printable(path)}: expected a sentencepiece model: {printable(error, 200)}") from None
    parts: dict[int, bytes] = {}
    kinds: list[int] = []
    for number, value in _fields(data):
        if not isinstance(value, bytes):
            continue
        if number == 1:
            kinds.append(_piece_kind(value))
        else:
            parts[number] = value
    for number, name in ((2, "trainer_spec"), (3, "normalizer_spec")):
        if number not in parts:
            raise CheckpointError(
                f"{printable(path)}: expected a {name}, found none ({len(data)} bytes); is the file cut?"
            )
    kind = next((value for number, value in _fields(parts[2]) if number == 3), _UNIGRAM)
    if kind != _UNIGRAM:
        raise CheckpointError(f"{printable(path)}: model_type: expected 1 (unigram), found {kind!r}")
    charsmap = next((value for number, value in _fields(parts[3]) if number == 2 and isinstance(value, bytes)), b"")
    ids = list(range(processor.GetPieceSize()))
    if len(kinds) != len(ids):
        raise CheckpointError(f"{printable(path)}: expected {len(ids)} pieces, found {len(kinds)}")
    names = processor.IdToPiece(ids)
    pieces = list(zip(names, processor.GetScore(ids), strict=True))
    return SentencePieceModel(
        path, pieces, [name for name, kind in zip(names, kinds, strict=True) if kind == 4], charsmap
    )


def _xlm_roberta_pieces(model: SentencePieceModel, tokens: Mapping[str, str]) -> Pieces:
    """R8: <s> 0, <pad> 1, </s> 2, <unk> 3, then the file's id + 1, the mask last."""
    _require_head(model, ["<unk>", "<s>", "</s>"])
    head = [(tokens[role], 0.0) for role in ("bos_token", "pad_token", "eos_token", "unk_token")]
    return [*head, *model.pieces[3:], (tokens["mask_token"], 0.0)]


def _camembert_pieces(model: SentencePieceModel, tokens: Mapping[str, str]) -> Pieces:
    """R8: <s>NOTUSED, <pad>, </s>NOTUSED, <unk>, <unk>NOTUSED first, then the file's id + 4, the mask last."""
    _require_head(model, ["<unk>"])
    head = [("<s>NOTUSED", 0.0), (tokens["pad_token"], 0.0), ("</s>NOTUSED", 0.0), (tokens["unk_token"], 0.0)]
    return [*head, ("<unk>NOTUSED", -100.0), *model.pieces[1:], (tokens["mask_token"], 0.0)]


def _albert_pieces(model: SentencePieceModel, tokens: Mapping[str, str]) -> Pieces:
    """The file's own ids."""
    _require_head(model, [tokens[role] for role in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")])
    return model.pieces


LAYOUTS: dict[str, Callable[[SentencePieceModel, Mapping[str, str]], Pieces]] = {
    "XLMRobertaTokenizer": _xlm_roberta_pieces,
    "CamembertTokenizer": _camembert_pieces,
    "AlbertTokenizer": _albert_pieces,
}


def _require_head(model: SentencePieceModel, expected: list[str]) -> None:
    found = [piece for piece, _ in model.pieces[: len(expected)]]
    if found != expected:
        raise CheckpointError(
            f"{printable(model.path)}: expected the first pieces {expected}, found {printable(found)}"
        )


def build(path: str | Path, class_name: str, tokens: Mapping[str, str]) -> tuple[Backend, bytes]:
    """A backend with the model only, its ids laid out as checkpoints of `class_name` want, and the normalizer's table."""
    model = read_model(path)
    pieces = LAYOUTS[class_name](model, tokens)
    first: dict[str, int] = {}
    for index, (piece, _) in enumerate(pieces):
        if first.setdefault(piece, index) != index:
            raise CheckpointError(
                f"{printable(path)}: {printable(piece)!r}: expected each piece once, "
                f"found it as id {first[piece]} and {index}"
            )
    backend = Backend(Unigram(pieces, unk_id=first[tokens["unk_token"]], byte_fallback=False))
    backend.add_tokens([AddedToken(piece, normalized=False) for piece in model.user_defined])
    return backend, model.charsmap


def dress(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """Gives `backend` the file's normalizer, the splitting at spaces, the template `<s> A </s></s> B </s>` (R8).

    Args:
        options: add_prefix_space; charsmap, the table of the normalizer (empty: no normalizer).
        tokens: the text of bos_token and eos_token.
    """
    if options["charsmap"]:
        backend.normalizer = normalizers.Precompiled(options["charsmap"])
    _split_at_spaces(backend, options["add_prefix_space"])
    first, last = tokens["bos_token"], tokens["eos_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} {last} $B {last}",
        special_tokens=[token_and_id(backend, token) for token in (first, last)],
    )


def dress_as_albert(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """Gives `backend` ALBERT's cleaning, then the file's normalizer, the splitting at spaces, BERT's template.

    Args:
        options: do_lower_case, keep_accents, add_prefix_space; charsmap as for `dress`.
        tokens: the text of cls_token and sep_token.
    """
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    steps += [] if options["keep_accents"] else [normalizers.NFKD(), normalizers.StripAccents()]
    steps += [normalizers.Lowercase()] if options["do_lower_case"] else []
    steps += [normalizers.Precompiled(options["charsmap"])] if options["charsmap"] else []
    backend.normalizer = normalizers.Sequence(steps)
    _split_at_spaces(backend, options["add_prefix_space"])
    first, last = tokens["cls_token"], tokens["sep_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0",
        pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
        special_tokens=[token_and_id(backend, token) for token in (first, last)],
    )


def _split_at_spaces(backend: Backend, add_prefix_space: bool) -> None:
    scheme = "always" if add_prefix_space else "never"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme)]
    )
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
