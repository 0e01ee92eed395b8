"""Unigram from a `sentencepiece.bpe.model` or `spiece.model` (Kudo 2018; XLM-RoBERTa, CamemBERT, ALBERT).

The pieces move into a Unigram model of the `tokenizers` library, which knows offsets; sentencepiece itself is the judge
of the file, and the tests compare the ids of both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import Unigram

from minitrans.errors import NotSupportedError
from minitrans.files import printable, require_regular_file
from minitrans.tokenizers import languages
from minitrans.tokenizers.guards import fault, faults_of_ids, refuse_first, token_and_id
from minitrans.tokenizers.wordpiece import add_bert_template

_MAX_BYTES = 64 * 1024 * 1024  # XLM-R's file has 5 MB, the largest public ones 5 to 10
_UNIGRAM, BPE_KIND = 1, 2  # TrainerSpec.model_type
SPACE = "▁"

PEGASUS_OFFSET = 103
PEGASUS_EXTRA = ("<mask_1>", *(f"<unk_{number}>" for number in range(2, PEGASUS_OFFSET)))

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


def read_model(path: str | Path, wanted_kind: int = _UNIGRAM) -> SentencePieceModel:
    """Reads and checks a sentencepiece file. Raises CheckpointError if it is cut, foreign, or a model of another kind."""
    from sentencepiece import SentencePieceProcessor

    path = Path(path)
    require_regular_file(path, _MAX_BYTES)
    data = path.read_bytes()
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
    except (RuntimeError, ValueError) as error:
        raise fault(path, f"expected a sentencepiece model: {printable(error, 200)}") from None
    parts: dict[int, bytes] = {}
    kinds: list[int] = []
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            kinds.append(_piece_kind(value))
        elif isinstance(value, bytes):
            parts[number] = value
    ids = list(range(processor.GetPieceSize()))
    lacking = [f"no {name}" for number, name in ((2, "trainer_spec"), (3, "normalizer_spec")) if number not in parts]
    if lacking or len(kinds) != len(ids):
        found = ", ".join([f"{len(kinds)} pieces", *lacking])
        wanted = f"{len(ids)} pieces, a trainer_spec and a normalizer_spec"
        raise fault(path, f"expected {wanted}, found {found} ({len(data)} bytes); is the file cut?")
    kind = next((value for number, value in _fields(parts[2]) if number == 3), _UNIGRAM)
    if kind != wanted_kind:
        expected = "1 (unigram)" if wanted_kind == _UNIGRAM else "2 (BPE)"
        raise fault(path, f"model_type: expected {expected}, found {kind!r}")
    charsmap = next((value for number, value in _fields(parts[3]) if number == 2 and isinstance(value, bytes)), b"")
    names = processor.IdToPiece(ids)
    pieces = list(zip(names, processor.GetScore(ids), strict=True))
    user_defined = [name for name, kind in zip(names, kinds, strict=True) if kind == 4]
    return SentencePieceModel(path, pieces, user_defined, charsmap)


def xlm_roberta_pieces(model: SentencePieceModel, tokens: Mapping[str, str], languages: tuple[str, ...] = ()) -> Pieces:
    """R8: <s> 0, <pad> 1, </s> 2, <unk> 3, then the file's id + 1, the codes of the languages, the mask last."""
    _require_head(model, ["<unk>", "<s>", "</s>"])
    names = ("bos_token" if "bos_token" in tokens else "cls_token", "pad_token", "eos_token", "unk_token")
    head = [(tokens[name], 0.0) for name in names]
    return [*head, *model.pieces[3:], *((code, 0.0) for code in languages), (tokens["mask_token"], 0.0)]


def camembert_pieces(model: SentencePieceModel, tokens: Mapping[str, str]) -> Pieces:
    """R8: <s>NOTUSED, <pad>, </s>NOTUSED, <unk>, <unk>NOTUSED first, then the file's id + 4, the mask last."""
    _require_head(model, ["<unk>"])
    head = [("<s>NOTUSED", 0.0), (tokens["pad_token"], 0.0), ("</s>NOTUSED", 0.0), (tokens["unk_token"], 0.0)]
    return [*head, ("<unk>NOTUSED", -100.0), *model.pieces[1:], (tokens["mask_token"], 0.0)]


def albert_pieces(model: SentencePieceModel, tokens: Mapping[str, str]) -> Pieces:
    """The file's own ids."""
    _require_head(model, [tokens[name] for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")])
    return model.pieces


def fnet_pieces(model: SentencePieceModel, tokens: Mapping[str, str]) -> Pieces:
    """The file's own ids."""
    named = [tokens[name] for name in ("pad_token", "cls_token", "sep_token", "mask_token")]
    _require_head(model, [tokens["unk_token"], "<s>", "</s>", *named])
    return model.pieces


def deberta_v2_pieces(model: SentencePieceModel, tokens: Mapping[str, str]) -> Pieces:
    """The file's own ids."""
    _require_head(model, [tokens[name] for name in ("pad_token", "cls_token", "sep_token", "unk_token")])
    return model.pieces


def big_bird_pieces(model: SentencePieceModel, tokens: Mapping[str, str]) -> Pieces:
    """The file's own ids."""
    return model.pieces


def t5_pieces(model: SentencePieceModel, tokens: Mapping[str, str]) -> Pieces:
    """The file's own ids."""
    _require_head(model, [tokens[name] for name in ("pad_token", "eos_token", "unk_token")])
    return model.pieces


def pegasus_pieces(model: SentencePieceModel, tokens: Mapping[str, str]) -> Pieces:
    """<pad> 0, </s> 1, the masks of sentences and of tokens, 101 tokens of pretraining, then the file's id + 103."""
    _require_head(model, [tokens[name] for name in ("pad_token", "eos_token", "unk_token")])
    sentences, *unused = PEGASUS_EXTRA
    masks = [(sentences, 0.0), (tokens["mask_token"], 0.0)]
    return [*model.pieces[:2], *masks, *((token, -100.0) for token in unused), *model.pieces[2:]]


def _require_head(model: SentencePieceModel, expected: list[str]) -> None:
    found = [piece for piece, _ in model.pieces[: len(expected)]]
    if found != expected:
        raise fault(model.path, f"expected the first pieces {expected}, found {printable(found)}")


def build(
    files: Mapping[str, Any],
    tokens: Mapping[str, str],
    _: Collection[str],
    layout: Callable[[SentencePieceModel, Mapping[str, str]], Pieces],
) -> Backend:
    """A backend with the file's normalizer and a model whose ids are laid out as checkpoints of the family want."""
    (path,) = files.values()
    model = read_model(path)
    pieces = layout(model, tokens)
    ids = {piece: index for index, (piece, _) in enumerate(pieces)}
    refuse_first(path, faults_of_ids(ids))
    backend = Backend(Unigram(pieces, unk_id=ids[tokens["unk_token"]], byte_fallback=False))
    backend.add_tokens([AddedToken(piece, normalized=False) for piece in model.user_defined])
    if model.charsmap:
        backend.normalizer = normalizers.Precompiled(model.charsmap)
    return backend


def build_mbart(files: Mapping[str, Any], tokens: Mapping[str, str], special: Collection[str]) -> Backend:
    """As `build`, with the codes of mBART's 25 languages; as in the reference, without the file's normalizer."""
    backend = build(files, tokens, special, partial(xlm_roberta_pieces, languages=languages.MBART))
    backend.normalizer = None
    return backend


def refuse_marian(files: Mapping[str, Any], tokens: Mapping[str, str], special: Collection[str]) -> Backend:
    """Raises NotSupportedError: what a sentencepiece file does not know may have an id in vocab.json, by its text."""
    raise NotSupportedError(
        "Marian's ids are looked up in vocab.json by the texts of pieces, also of runs of characters that source.spm does not "
        "know; a backend of the tokenizers library has no such step, and would give other ids: make the ids with "
        "transformers.MarianTokenizer and pass them to the model"
    )


def build_deberta_v2(files: Mapping[str, Any], tokens: Mapping[str, str], special: Collection[str]) -> Backend:
    """As `build`, with the file's own ids; the mask, which it lacks, comes after the last."""
    backend = build(files, tokens, special, deberta_v2_pieces)
    backend.add_special_tokens([AddedToken(tokens["mask_token"], normalized=False, special=True)])
    return backend


def add_normalizer_and_decoder(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """Gives `backend`, which has the file's normalizer, the splitting at spaces and `<s> A </s></s> B </s>` (R8)."""
    _split_at_spaces(backend, options["add_prefix_space"])
    first, last = tokens["bos_token"], tokens["eos_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} {last} $B {last}",
        special_tokens=[token_and_id(backend, token) for token in (first, last)],
    )


def add_albert_normalizer_and_decoder(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """Puts ALBERT's cleaning before the file's normalizer; adds the splitting at spaces and BERT's template."""
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    steps += [] if options["keep_accents"] else [normalizers.NFKD(), normalizers.StripAccents()]
    steps += [normalizers.Lowercase()] if options["do_lower_case"] else []
    backend.normalizer = normalizers.Sequence([*steps, *([backend.normalizer] if backend.normalizer else [])])
    _split_at_spaces(backend, options["add_prefix_space"])
    add_bert_template(backend, tokens)


def add_deberta_v2_normalizer_and_decoder(
    backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]
) -> None:
    """DeBERTa's cleaning in place of the file's normalizer, as in the reference; spaces stay in front of punctuation."""
    steps: list[Any] = [normalizers.Lowercase()] if options["do_lower_case"] else []
    spaces = normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " ")
    backend.normalizer = normalizers.Sequence([*steps, spaces, normalizers.NFC(), normalizers.Strip(left=False)])
    scheme = "always" if options["add_prefix_space"] else "first"
    splits: list[Any] = [pre_tokenizers.Punctuation("isolated")] if options["split_by_punct"] else []
    splits.append(pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme))
    backend.pre_tokenizer = pre_tokenizers.Sequence(splits)
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    add_bert_template(backend, tokens)


def add_big_bird_normalizer_and_decoder(
    backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]
) -> None:
    """BigBird's cleaning in place of the file's normalizer, as in the reference: several spaces are one."""
    backend.normalizer = normalizers.Sequence(
        [normalizers.Strip(left=False, right=False), normalizers.Replace(Regex(r" {2,}"), SPACE)]
    )
    scheme = "always" if options["add_prefix_space"] else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=True)
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=True)
    add_bert_template(backend, tokens)


def add_t5_decoder(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """Sentinels behind the pieces, the last one first; the splitting at spaces; `A </s> B </s>` (T5)."""
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(options["extra_ids"]))]
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in sentinels])
    _split_at_spaces(backend, options["add_prefix_space"])
    last = tokens["eos_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {last}", pair=f"$A {last} $B {last}", special_tokens=[token_and_id(backend, last)]
    )


def add_mbart_decoder(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """The splitting at spaces; the template goes with the language."""
    _split_at_spaces(backend, add_prefix_space=True)


def add_single_spaces_and_decoder(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """The file's normalizer, then several spaces are one; every space is a mark, and one more stands before the text."""
    steps = [backend.normalizer] if backend.normalizer else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(r" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)


def add_pegasus_normalizer_and_decoder(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """As mBART-50's, without a normalizer of the file's own line ends are spaces; `A B </s>`.

    Raises:
        NotSupportedError: for the layout of a relative.
    """
    if (options["offset"], options["mask_token_sent"]) != (PEGASUS_OFFSET, PEGASUS_EXTRA[0]):
        what = f"offset={options['offset']!r}, mask_token_sent={printable(options['mask_token_sent'])!r}"
        known = f"offset={PEGASUS_OFFSET} and mask_token_sent={PEGASUS_EXTRA[0]!r}; save the tokenizer.json with transformers"
        raise NotSupportedError(f"PegasusTokenizer: {what}: a sentencepiece file is read with {known}")
    if not backend.normalizer:
        backend.normalizer = normalizers.Replace(Regex(r"\n"), " ")
    add_single_spaces_and_decoder(backend, options, tokens)
    last = tokens["eos_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {last}", pair=f"$A $B:0 {last}", special_tokens=[token_and_id(backend, last)]
    )


def _split_at_spaces(backend: Backend, add_prefix_space: bool) -> None:
    scheme = "always" if add_prefix_space else "never"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme)]
    )
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
