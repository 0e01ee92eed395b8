"""A new vocabulary from texts: WordPiece, byte-level BPE, or a sentencepiece model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

from minitrans.tokenizers.auto import BertTokenizer, RobertaTokenizer, T5Tokenizer
from minitrans.tokenizers.tokenizer import Tokenizer

Learn = Callable[[Iterable[str], int, bool, Path], Tokenizer]


def train_tokenizer(
    texts: Iterable[str], out: str | Path, *, kind: str = "wordpiece", vocab_size: int = 8000, lower_case: bool = False
) -> Tokenizer:
    """Learns a vocabulary and writes the files of a tokenizer that has it, which `AutoTokenizer` and the reference open.

    Args:
        texts: one by one; they need not fit into memory.
        out: the folder, made if it is not there.
        kind: "wordpiece" (as BERT), "byte-bpe" (as RoBERTa) or "sentencepiece" (unigrams, as T5).
        vocab_size: how many tokens at most, special ones included.
        lower_case: whether the tokenizer reads everything in lower case.

    Raises:
        ValueError: for an unknown kind, no texts, a size that is impossible for these texts, or lower case where bytes are kept.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    rest = iter(texts)
    first = next(rest, None)
    if first is None:
        raise ValueError("expected at least one text to learn from, found none")
    with tempfile.TemporaryDirectory() as place:  # so that what fails leaves nothing
        tokenizer = KINDS[kind](chain([first], rest), vocab_size, lower_case, Path(place))
        tokenizer.save_pretrained(place)
        shutil.copytree(place, out, dirs_exist_ok=True)
    return tokenizer


def _wordpiece(texts: Iterable[str], vocab_size: int, lower_case: bool, folder: Path) -> Tokenizer:
    bare = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    tokenizer = BertTokenizer({token: number for number, token in enumerate(bare)}, do_lower_case=lower_case)
    learnt = tokenizer.train_new_from_iterator(texts, vocab_size)
    if len(learnt) > vocab_size:
        raise ValueError(
            f"vocab_size: wordpiece has every character and five special tokens, at least {len(learnt)}, got {vocab_size}"
        )
    return learnt


def _byte_bpe(texts: Iterable[str], vocab_size: int, lower_case: bool, folder: Path) -> Tokenizer:
    if lower_case:
        raise ValueError(
            "byte-bpe keeps every byte of a text: lower the texts before, or take wordpiece or sentencepiece"
        )
    bare = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet()))
    if vocab_size < len(bare):
        raise ValueError(
            f"vocab_size: byte-bpe has every byte and five special tokens, at least {len(bare)}, got {vocab_size}"
        )
    tokenizer = RobertaTokenizer({token: number for number, token in enumerate(bare)}, [])
    return tokenizer.train_new_from_iterator(texts, vocab_size)


def _sentencepiece(texts: Iterable[str], vocab_size: int, lower_case: bool, folder: Path) -> Tokenizer:
    """The library writes the file, with T5's ids; its 100 sentinels are beyond `vocab_size`, as in T5."""
    from sentencepiece import SentencePieceTrainer

    lines = (line for text in texts for line in text.splitlines())
    rule = "nmt_nfkc_cf" if lower_case else "nmt_nfkc"
    with (folder / "spiece.model").open("wb") as file:
        try:
            SentencePieceTrainer.train(
                sentence_iterator=lines, model_writer=file, vocab_size=vocab_size, model_type="unigram", pad_id=0, eos_id=1,
                unk_id=2, bos_id=-1, normalization_rule_name=rule, num_threads=1, minloglevel=2,
            )  # fmt: skip
        except RuntimeError as error:  # its message has the sizes that would do
            raise ValueError(f"sentencepiece: {str(error).rpartition('] ')[2] or error}") from None
    return T5Tokenizer.from_pretrained(folder)


KINDS: dict[str, Learn] = {"wordpiece": _wordpiece, "byte-bpe": _byte_bpe, "sentencepiece": _sentencepiece}
