"""BPE from a sentencepiece `tokenizer.model`, with bytes for what the vocabulary lacks (LLaMA, Mistral, Gemma)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from minitrans.errors import NotSupportedError
from minitrans.files import printable, read_json
from minitrans.tokenizers import languages
from minitrans.tokenizers.guards import faults_of_ids, refuse_first
from minitrans.tokenizers.sentencepiece_model import (
    BPE_KIND,
    SPACE,
    Pieces,
    add_single_spaces_and_decoder,
    read_model,
    xlm_roberta_pieces,
)  # fmt: skip


def build(files: Mapping[str, Any], tokens: Mapping[str, str], specials: Collection[str]) -> Backend:
    """A backend with the model only; the ids are the file's. Raises CheckpointError naming what is wrong with it."""
    (path,) = files.values()
    model = read_model(path, BPE_KIND)
    ids = {piece: index for index, (piece, _) in enumerate(model.pieces)}
    refuse_first(path, faults_of_ids(ids))
    options = {"unk_token": tokens["unk_token"], "fuse_unk": True, "byte_fallback": True}
    backend = Backend(BPE(vocab=ids, merges=_merges(model.pieces, ids, specials), **options))
    backend.add_tokens([AddedToken(piece, normalized=False) for piece in model.user_defined])
    if model.charsmap:
        backend.normalizer = normalizers.Precompiled(model.charsmap)
    return backend


def build_nllb(files: Mapping[str, Any], tokens: Mapping[str, str], specials: Collection[str]) -> Backend:
    """As `build`, without bytes; XLM-R's ids, behind them the codes of NLLB's 202 languages, the mask last."""
    (path,) = files.values()
    model = read_model(path, BPE_KIND)
    pieces = xlm_roberta_pieces(model, tokens, languages.NLLB)
    ids = {piece: index for index, (piece, _) in enumerate(pieces)}
    refuse_first(path, faults_of_ids(ids))
    merges = _merges(pieces, ids, {*specials, *languages.NLLB})
    backend = Backend(BPE(vocab=ids, merges=merges, unk_token=tokens["unk_token"], fuse_unk=True))
    backend.add_special_tokens([AddedToken(tokens["mask_token"], lstrip=True, normalized=True, special=True)])
    if model.charsmap:
        backend.normalizer = normalizers.Precompiled(model.charsmap)
    return backend


def build_m2m100(files: Mapping[str, Any], tokens: Mapping[str, str], specials: Collection[str]) -> Backend:
    """As `build`, without bytes; the ids are those of vocab.json, behind them the languages.

    Raises:
        CheckpointError: where the two files do not fit, or the text of unknown characters may have an id.
    """
    path, spm = files.values()
    vocabulary = path if isinstance(path, dict) else read_json(path)
    refuse_first(path, faults_of_ids(vocabulary))
    model = read_model(spm, BPE_KIND)
    ids = {piece: index for index, (piece, _) in enumerate(model.pieces)}
    refuse_first(path, _faults_of_lookup(vocabulary, ids, set(tokens.values())))
    merges = _merges(model.pieces, ids, specials)
    backend = Backend(BPE(vocab=vocabulary, merges=merges, unk_token=tokens["unk_token"], fuse_unk=True))
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in languages.M2M100])
    if model.charsmap:
        backend.normalizer = normalizers.Precompiled(model.charsmap)
    return backend


def _faults_of_lookup(vocabulary: Mapping[str, int], pieces: Mapping[str, int], specials: set[str]) -> Iterator[str]:
    """Says where the ids of vocab.json are not one for each piece: pieces it lacks, unknown characters that it has."""
    for piece in (pieces.keys() | specials) - vocabulary.keys():
        yield f"expected an id for each piece of the sentencepiece file, found none for {printable(piece)!r}"
    for token in sorted(vocabulary.keys() - pieces.keys() - specials):
        if not set(token) & pieces.keys():
            yield f"{printable(token)!r}: expected characters of the sentencepiece file, found none"


def add_m2m100_decoder(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """Spaces as sentencepiece has them, none at the end; in a text that is decoded none after special tokens.

    Raises:
        NotSupportedError: for the languages of another model.
    """
    if options["language_codes"] != "m2m100":
        what = f"language_codes={printable(options['language_codes'])!r}: only the 100 languages of m2m100 are known"
        raise NotSupportedError(f"M2M100Tokenizer: {what}; make the ids with transformers.M2M100Tokenizer")
    steps = [backend.normalizer] if backend.normalizer else []
    spaces = [normalizers.Replace(Regex(r" {2,}"), " "), normalizers.Replace(Regex(r" \z"), "")]
    backend.normalizer = normalizers.Sequence([*steps, *spaces])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    special = dict.fromkeys([*tokens.values(), *languages.M2M100])
    backend.decoder = decoders.Sequence(
        [
            decoders.Fuse(),
            *(decoders.Replace(token + SPACE, token) for token in special),
            decoders.Replace(SPACE, " "),
        ]
    )


def add_nllb_decoder(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """mBART-50's; as in the reference, a file without a normalizer keeps its spaces."""
    keeps = backend.normalizer is None
    add_single_spaces_and_decoder(backend, options, tokens)
    if keeps:
        backend.normalizer = None


def _merges(pieces: Pieces, ids: Mapping[str, int], specials: Collection[str]) -> list[tuple[str, str]]:
    """Every two pieces that make a third, the one with the best score first: sentencepiece joins them in this order."""
    joined: list[tuple[float, int, str, str]] = []
    for piece, score in pieces:
        halves = ((piece[:at], piece[at:]) for at in range(1, len(piece)) if piece not in specials)
        joined += [(-score, ids[left], left, right) for left, right in halves if left in ids and right in ids]
    return [(left, right) for _, _, left, right in sorted(joined)]


def add_spaces_and_decoder(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """LLaMA: every space is a mark, and one more stands before the text; older files put it after special tokens too."""
    scheme = ("always" if options["legacy"] else "first") if options["add_prefix_space"] else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    strip = [decoders.Strip(content=" ", left=1)] if options["add_prefix_space"] else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )


def add_marks_and_decoder(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """Gemma: every space is a mark, and there are no more."""
    marks = normalizers.Replace(" ", SPACE)
    backend.normalizer = normalizers.Sequence([backend.normalizer, marks]) if backend.normalizer else marks
    backend.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
