"""Byte-level BPE from `vocab.json` and `merges.txt` (Sennrich et al. 2016; GPT-2, Radford et al. 2019; RoBERTa)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from tokenizers import Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from minitrans.files import read_json
from minitrans.tokenizers.guards import faults_of_ids, faults_of_merges, read_lines, refuse_first, token_and_id

_MERGE = re.compile(r"#version.*|[^ ]+ [^ ]+")


def build(files: Mapping[str, Any], _: Mapping[str, str], specials: Collection[str]) -> Backend:
    """A backend with the model only, from vocab.json (or a dict) and merges.txt (or a list of pairs, the best first).

    Raises:
        CheckpointError: naming the line or token at fault, also where the two files are of different vocabularies;
            `specials` are the tokens that need no merge.
    """
    vocabulary, merges = files["vocab.json"], files["merges.txt"]
    origin, merges_origin = (
        "the vocabulary given" if isinstance(file, dict | list) else file for file in files.values()
    )
    tokens = vocabulary if isinstance(vocabulary, dict) else read_json(vocabulary)
    if not isinstance(merges, list):
        lines = read_lines(merges, "two symbols and a space between", _MERGE.fullmatch)
        merges = [line.split(" ") for line in lines if not line.startswith("#version")]
    pairs = [(left, right) for left, right in merges]
    refuse_first(origin, faults_of_ids(tokens))
    refuse_first(origin, faults_of_merges(tokens, pairs, specials, merges_origin))
    return Backend(BPE(vocab=tokens, merges=pairs, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))


def add_normalizer_and_decoder(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """Gives a model whose tokens are declared the byte-level splitting, `<s> A </s></s> B </s>` (R8) and the decoder."""
    add_decoder(backend, options, tokens)
    backend.post_processor = processors.RobertaProcessing(
        token_and_id(backend, tokens["sep_token"]),
        token_and_id(backend, tokens["cls_token"]),
        trim_offsets=options["trim_offsets"],
        add_prefix_space=options["add_prefix_space"],
    )


def add_decoder(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """Gives a model the byte-level splitting and the decoder, and no template: GPT-2 adds no tokens."""
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=options["add_prefix_space"])
    backend.decoder = decoders.ByteLevel()


# words as Qwen2's files have them
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def add_qwen2_decoder(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """The same with Qwen2's words, and NFC before."""
    words = pre_tokenizers.Split(Regex(_QWEN2), behavior="isolated")
    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=options["add_prefix_space"], use_regex=False)
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, as_bytes])
    backend.decoder = decoders.ByteLevel()
