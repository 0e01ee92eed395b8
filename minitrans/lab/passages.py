"""Passages of running text, out of WikiText-2 (Merity et al. 2017, "Pointer Sentinel Mixture Models")."""

from __future__ import annotations

import gzip

from minitrans.lab.bench import Bench
from minitrans.lab.capture import Fields, batch_of

WIKITEXT = "wikitext2/test.txt.gz"


def passages(bench: Bench, count: int, length: int) -> Fields:
    """`count` passages of exactly `length` tokens, the special ones among them; none overlaps another.

    Raises:
        ValueError: where the file or the model's longest text is too short.
    """
    if length > bench.encoder.max_length:
        raise ValueError(f"length: the model reads {bench.encoder.max_length} tokens at most, got {length}")
    with gzip.open(bench.files[WIKITEXT], "rt", encoding="utf-8") as file:
        words = [word for line in file if not line.lstrip().startswith("=") for word in line.split()]
    texts = [" ".join(words[start : start + length]) for start in range(0, len(words) - length + 1, length)][:count]
    if len(texts) < count:
        raise ValueError(f"{bench.files[WIKITEXT]}: expected {count * length} words, found {len(words)}")
    return batch_of(bench, texts, length)  # a word is at least a token, so that each text is cut
