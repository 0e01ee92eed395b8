"""WordPiece from a `vocab.txt` (Wu et al. 2016; BERT, Devlin et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from minitrans.errors import CheckpointError
from minitrans.files import printable, read_text
from minitrans.tokenizers.backend import require_dense_ids, token_and_id

LONGEST_WORD = 100  # R8: a longer word is [UNK]


def read_vocabulary(path: str | Path) -> dict[str, int]:
    """Token -> id, the id being the line number from 0. Raises CheckpointError, naming a blank or repeated line."""
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    vocabulary: dict[str, int] = {}
    for index, line in enumerate(lines):
        token = line.rstrip()
        if not token:
            raise CheckpointError(f"{printable(path)}: line {index + 1}: expected a token, found a blank line")
        if token in vocabulary:
            raise CheckpointError(
                f"{printable(path)}: line {index + 1}: {printable(token)!r}: expected each token once, "
                f"found it on line {vocabulary[token] + 1} already"
            )
        vocabulary[token] = index
    if not vocabulary:
        raise CheckpointError(f"{printable(path)}: expected one token a line, found an empty file")
    return vocabulary


def build(vocabulary: str | Path | dict[str, int], unknown: str) -> Backend:
    """A backend with the model only; `unknown` is the token of a word that no pieces make."""
    origin = "vocab" if isinstance(vocabulary, dict) else vocabulary
    pieces = vocabulary if isinstance(vocabulary, dict) else read_vocabulary(vocabulary)
    require_dense_ids(pieces, origin)
    if unknown not in pieces:
        raise CheckpointError(
            f"{printable(origin)}: expected the unknown token {printable(unknown)!r}, found no such token"
        )
    return Backend(WordPiece(pieces, unk_token=unknown, max_input_chars_per_word=LONGEST_WORD))


def _dress_text(backend: Backend, options: Mapping[str, Any]) -> None:
    """BERT's normalizer, word splitting and decoder."""
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options["tokenize_chinese_chars"],
        strip_accents=options["strip_accents"],
        lowercase=options["do_lower_case"],
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")


def dress_as_roberta(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """As `dress`, with RoBERTa's template `<s> A </s></s> B </s>`: MPNet."""
    _dress_text(backend, options)
    last, first = (token_and_id(backend, tokens[role]) for role in ("sep_token", "cls_token"))
    backend.post_processor = processors.RobertaProcessing(last, first, trim_offsets=True, add_prefix_space=False)


def dress(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """Gives `backend` BERT's normalizer, word splitting, template `[CLS] A [SEP] B [SEP]` and decoder (R8).

    Args:
        options: do_lower_case, tokenize_chinese_chars, strip_accents (None: as do_lower_case).
        tokens: the text of cls_token and sep_token.
    """
    _dress_text(backend, options)
    first, last = tokens["cls_token"], tokens["sep_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0",
        pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
        special_tokens=[token_and_id(backend, token) for token in (first, last)],
    )
