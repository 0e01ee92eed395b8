"""WordPiece from a `vocab.txt` (Wu et al. 2016; BERT, Devlin et al. 2018)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from minitrans.tokenizers.guards import faults_of_ids, read_lines, refuse_first, token_and_id

LONGEST_WORD = 100  # R8: a longer word is [UNK]


def build(files: Mapping[str, Any], tokens: Mapping[str, str], _: Collection[str] = ()) -> Backend:
    """A backend with the model only, from vocab.txt, where a token's id is the number of its line (or from a dict).

    Raises:
        CheckpointError: naming the line that is blank or repeated.
    """
    origin = files["vocab.txt"]
    if isinstance(origin, dict):
        pieces, origin = origin, "vocab"
    else:
        pieces = {token: index for index, token in enumerate(read_lines(origin, "a token", bool))}
    refuse_first(origin, faults_of_ids(pieces))
    return Backend(WordPiece(pieces, unk_token=tokens["unk_token"], max_input_chars_per_word=LONGEST_WORD))


def _add_cleaning(backend: Backend, options: Mapping[str, Any]) -> None:
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options["tokenize_chinese_chars"],
        strip_accents=options["strip_accents"],
        lowercase=options["do_lower_case"],
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")


def add_bert_template(backend: Backend, tokens: Mapping[str, str]) -> None:
    """Gives `backend` BERT's template `[CLS] A [SEP] B [SEP]`, with token types 0 and 1 (R8)."""
    first, last = tokens["cls_token"], tokens["sep_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0",
        pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
        special_tokens=[token_and_id(backend, token) for token in (first, last)],
    )


def add_normalizer_and_decoder(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """Gives a model whose tokens are declared BERT's normalizer, word splitting, template and decoder (R8)."""
    _add_cleaning(backend, options)
    add_bert_template(backend, tokens)


def add_normalizer_and_roberta_template(
    backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]
) -> None:
    """As `add_normalizer_and_decoder`, with RoBERTa's template `<s> A </s></s> B </s>`: MPNet."""
    _add_cleaning(backend, options)
    last, first = (token_and_id(backend, tokens[name]) for name in ("sep_token", "cls_token"))
    backend.post_processor = processors.RobertaProcessing(last, first, trim_offsets=True, add_prefix_space=False)
