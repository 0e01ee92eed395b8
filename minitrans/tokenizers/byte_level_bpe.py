"""Byte-level BPE from `vocab.json` and `merges.txt` (Sennrich et al. 2016; GPT-2, Radford et al. 2019; RoBERTa)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from minitrans.errors import CheckpointError
from minitrans.files import printable, read_json, read_text
from minitrans.tokenizers.backend import require_dense_ids, token_and_id

_FILLER = re.compile(
    r"<[^<>]*>|\[[^\[\]]*\]|madeupword\d{4}"
)  # tokens that no merge makes: specials, fairseq's padding


def read_merges(path: str | Path) -> list[tuple[str, str]]:
    """The pairs to merge, best first. Raises CheckpointError, naming the line, on anything but two symbols."""
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    merges: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines, start=1):
        if line.startswith("#version"):
            continue
        pair = tuple(line.split(" "))
        if len(pair) != 2 or not all(pair):
            raise CheckpointError(
                f"{printable(path)}: line {number}: expected two symbols and a space between, found {printable(line)!r}"
            )
        if pair in merges:
            raise CheckpointError(
                f"{printable(path)}: line {number}: {printable(line)!r}: expected each merge once, "
                f"found it on line {merges[pair]} already"
            )
        merges[pair] = number
    return list(merges)


def _require_agreement(
    vocabulary: Mapping[str, int],
    merges: list[tuple[str, str]],
    specials: Collection[str],
    files: tuple[object, object],
) -> None:
    """Raises CheckpointError if a file names a token that the other cannot make: one of the two is cut or foreign."""
    vocabulary_file, merges_file = (printable(file) for file in files)
    made = set(pre_tokenizers.ByteLevel.alphabet())
    missing = sorted(made - vocabulary.keys())
    if missing:
        raise CheckpointError(
            f"{vocabulary_file}: expected a symbol for each of the 256 bytes, found none for {printable(missing[0])!r}"
            f" ({len(missing)} are missing; the text's bytes would vanish)"
        )
    for left, right in merges:
        for token in (left, right, left + right):
            if token not in vocabulary:
                raise CheckpointError(
                    f"{merges_file}: merge {printable(f'{left} {right}')!r}: expected tokens of {vocabulary_file}, "
                    f"found {printable(token)!r}, which is not there"
                )
        made.add(left + right)
    for token, index in vocabulary.items():
        if token not in made and token not in specials and not _FILLER.fullmatch(token):
            raise CheckpointError(
                f"{merges_file}: expected a merge for each token of {vocabulary_file}, "
                f"found none that makes {printable(token)!r} (id {index}); is the file cut?"
            )


def build(
    vocabulary: str | Path | dict[str, int], merges: str | Path | list[tuple[str, str]], specials: Collection[str]
) -> Backend:
    """A backend with the model only; `specials` are the tokens that need no merge."""
    origin = "vocab" if isinstance(vocabulary, dict) else vocabulary
    tokens = vocabulary if isinstance(vocabulary, dict) else read_json(vocabulary)
    pairs = [(left, right) for left, right in merges] if isinstance(merges, list) else read_merges(merges)
    require_dense_ids(tokens, origin)
    _require_agreement(tokens, pairs, specials, (origin, "merges" if isinstance(merges, list) else merges))
    return Backend(BPE(vocab=tokens, merges=pairs, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))


def dress(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str]) -> None:
    """Gives `backend` the byte-level splitting, RoBERTa's template `<s> A </s></s> B </s>` (R8) and the decoder.

    Args:
        options: add_prefix_space, trim_offsets.
        tokens: the text of cls_token and sep_token.
    """
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=options["add_prefix_space"])
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(
        token_and_id(backend, tokens["sep_token"]),
        token_and_id(backend, tokens["cls_token"]),
        trim_offsets=options["trim_offsets"],
        add_prefix_space=options["add_prefix_space"],
    )
