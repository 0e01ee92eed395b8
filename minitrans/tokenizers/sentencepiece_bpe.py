"""BPE from a sentencepiece `tokenizer.model`, with bytes for what the vocabulary lacks (LLaMA, Mistral, Gemma)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

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
