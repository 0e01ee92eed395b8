"""The patterns of published tokenizers open, those that would hang on a text do not, and the engine is the judge."""

# ruff: noqa: RUF001

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Backend

from minitrans.errors import CheckpointError
from minitrans.tokenizers.auto import AutoTokenizer
from minitrans.tokenizers.patterns import slowness

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDINGS, _SPACES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"\s*[\r\n]+|\s+(?!\S)|\s+"
PUBLISHED = {
    "GPT-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "GPT-4, LLaMA 3": rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
    "GPT-4, possessive": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|"
    r"\s*[\r\n]|\s+(?!\S)|\s",
    "GPT-4o": rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDINGS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDINGS}?|"
    rf"\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}",
    "Qwen 2": rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}",
    "DeepSeek 3": r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
    rf" ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
    "DeepSeek, letters": r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿͰ-ͳΣ-ϵԱ-Ֆ\U00010400-\U0001044f]+",
    "DeepSeek, punctuation": r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    "DeepSeek, spaces": r"\s+$",
    "DeepSeek, CJK": "[一-龥぀-ゟ゠-ヿ]+",
    "Kimi": rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{M}}&&[^\p{{Han}}]]*[\p{{Ll}}\p{{M}}&&[^\p{{Han}}]]+|{_SPACES}",
    "BLOOM": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "Falcon": r"[\p{P}\$\+<=>\^~\|`]+",
    "Falcon, digits": "[0-9][0-9][0-9]",
    "SuperBPE": r"(?=(\d{3})+(?!\d))",
    "digits from the right": r"\d{1,3}(?=(?:\d{3})*\b)",
    "Chameleon": "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
    "Chameleon, tabs": "([\t\n]|    |  )",
    "CLIP": r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    "molecules": r"(\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$|\%[0-9]{2}|[0-9])",
    "words": r"\p{L}+(?:['-]\p{L}+)*",
    "T5": " {2,}",
    "any": r"[\s\S]",
}
HOSTILE = [
    "(a+)+$", "(a|a)*b", "(a|aa)+$", "(a*)*b", r"(\w+\s?)+$", "(?=(a+)+$)a", "(?>a)(a+)+b", "(?:a+){20}b", "(a?){30}b",
    "(?:a{1,3})+b", "((a{1,9}){1,9}){1,9}b", "(?:a|(?:b+)*)+c", "(?:x*y|x)*", "(?:a(?=a*))*b", "(?:a(?=a*))*", "(?:(?!a*)|a)*", "a*a*b", "(?i)a*A*b", r"\s+\s+\S",
    r"\w+(?:[ab]++|c)d", "(?:(?:(?=a){99999}){99999}){99999}", "a{99999}{99999}", "(a)\\1+b", "(?x)(a+ )+b", "(?i:a)(?i)b",
    "(?~a)", "(?(1)a|b)", r"\g<0>a", "(?{x})a", "a" * 6000, "(" * 3000 + "a" + ")" * 3000, "(a", "a)", "*a", "[a",
    "[[:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:](a+)+$]", "[]a](x+)+$", r"[\c](a+)+$]", r"\Q(\E(a+)+$", "a{" + "9" * 5000 + "}",
]  # fmt: skip
RUNS = ["a", "A", "aB", "1", " ", "\n", " \n", "'", "<|", "\u4e00", "é ", "IMGIMGA", "a1 "]


def _tokenizer_json(folder: Path, pattern: str) -> Path:
    letters = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    document = {
        "version": "1.0",
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "model": {"type": "BPE", "vocab": {**letters, "aa": 256}, "merges": [["a", "a"]]},
    }
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_patterns_open_and_end(name: str, tmp_path: Path, odd: list[str]) -> None:
    folder = _tokenizer_json(tmp_path, PUBLISHED[name])
    mine, theirs = AutoTokenizer.from_pretrained(folder), Backend.from_file(str(folder / "tokenizer.json"))
    for text in (*odd, "aa aaa"):
        assert mine(text).input_ids == theirs.encode(text).ids
    start = time.perf_counter()
    for run in RUNS:
        mine(run * (3000 // len(run)) + "!")
    assert time.perf_counter() - start < 30  # a cubic one would need hours


@pytest.mark.parametrize("pattern", HOSTILE, ids=lambda pattern: pattern[:30])
def test_hostile_patterns_are_refused(pattern: str, tmp_path: Path) -> None:
    assert not slowness(pattern) <= 1
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: pre_tokenizer: the regular expression .* linear time"):
        AutoTokenizer.from_pretrained(_tokenizer_json(tmp_path, pattern))


def test_patterns_of_a_file_share_their_time() -> None:
    assert slowness(PUBLISHED["GPT-4o"]) < 0.2
    assert slowness("|".join(["(?=a*b)x"] * 400)) > 1


_atoms = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\w", "ab", "$", r"\b"])
_counts = st.sampled_from(
    ["", "", "*", "+", "?", "{1,3}", "{2}", "{0,40}", "*?", "+?", "*+", "++", "?+", "{2,}", "{1,3}+"]
)


def _larger(inner: Any) -> Any:
    group = st.builds(
        lambda open_, parts: open_ + parts + ")", st.sampled_from(["(", "(?:", "(?=", "(?!", "(?>"]), inner
    )
    return st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("({}|{}){}".format, inner, inner, _counts),
        st.builds("{}{}".format, group, _counts),
    )


@settings(max_examples=150, deadline=None)
@given(pattern=st.recursive(st.builds("{}{}".format, _atoms, _counts), _larger, max_leaves=8))
def test_the_engine_never_gives_up_on_what_is_accepted(pattern: str) -> None:
    """It panics after ten million steps back in one match; a bound that is too low would let such a pattern in."""
    if slowness(pattern) <= 1:
        try:
            split = pre_tokenizers.Split(Regex(pattern), "isolated")
        except Exception:
            return  # no pattern to the engine
        for text in ("a" * 400, "ab" * 200 + "c", "b" * 400 + "!", "aab" * 130 + " ", "a" * 200 + "b" * 200):
            split.pre_tokenize_str(text)
