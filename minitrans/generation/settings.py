"""What a search is asked for: every setting, its default, and what it must be.

The names are the reference's; `frequency_penalty`, `presence_penalty`, `seed` and `reorder` are not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from minitrans.files import printable


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of one search, with the reference's defaults."""

    # how long
    max_length: int | None = None  # tokens with the prompt; with neither of the two 20 new tokens
    max_new_tokens: int | None = None  # tokens without the prompt
    min_length: int = 0
    min_new_tokens: int = 0
    max_time: float | None = None  # seconds, after which every text ends
    stop_strings: str | list[str] | None = None  # a text ends with the token that completes one of these
    # which search
    do_sample: bool = False
    num_beams: int = 1
    num_beam_groups: int = 1
    num_return_sequences: int = 1
    early_stopping: bool | str = False  # of beams, see `beam.py`
    length_penalty: float = 1.0  # the exponent of a text's length, by which its score is divided
    diversity_penalty: float = 0.0
    penalty_alpha: float | None = None  # with top_k: contrastive search
    dola_layers: str | list[int] | None = None
    force_words_ids: list[Any] | None = None  # of each word its tokens, or its forms, see `forced.py`
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int = 2
    num_assistant_tokens: int = 20
    num_assistant_tokens_schedule: str = "constant"
    assistant_confidence_threshold: float = 0.4
    # the distribution
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    top_h: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    seed: int | Sequence[int] | None = None  # of every prompt, see `noise.py`
    # what scores become
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: list[list[int]] | None = None
    sequence_bias: Any = None  # {(1, 2): -1.0}, or [[[1, 2], -1.0]] as JSON has it
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | list[int] | None = None
    suppress_tokens: list[int] | None = None
    begin_suppress_tokens: list[int] | None = None
    exponential_decay_length_penalty: Sequence[float] | None = None
    guidance_scale: float = 1.0
    remove_invalid_values: bool = False
    renormalize_logits: bool = False
    # special tokens
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | list[int] | None = None
    # how it runs, and what comes back
    use_cache: bool = True
    cache_implementation: str | None = None
    return_dict_in_generate: bool = False
    output_scores: bool = False
    output_logits: bool = False
    output_attentions: bool = False
    output_hidden_states: bool = False

    @property
    def looks(self) -> dict[str, bool]:
        """What is to be kept of every reading, by the names of `decoding.SEEN`."""
        attentions = self.return_dict_in_generate and self.output_attentions
        states = self.return_dict_in_generate and self.output_hidden_states
        return {"hidden_states": states, "attentions": attentions, "cross_attentions": attentions}

    @property
    def eos(self) -> list[int]:
        """The tokens that end a text."""
        return many(self.eos_token_id)

    @property
    def pad(self) -> int | None:
        """What stands after a text that has ended."""
        return self.pad_token_id if self.pad_token_id is not None or not self.eos else self.eos[0]

    @property
    def keep(self) -> int:
        """How many tokens a narrowed distribution keeps: beams need one to go on with besides those that end a text."""
        return 1 if self.num_beams == 1 else max(2, len(self.eos) + 1)


NAMES = tuple(item.name for item in fields(Settings))

Test = Callable[[Any], bool]


def _whole(least: int) -> tuple[Test, str]:
    return lambda value: type(value) is int and value >= least, f"a whole number, at least {least}"


def _number(test: Test, words: str) -> tuple[Test, str]:
    return lambda value: isinstance(value, int | float) and type(value) is not bool and test(value), words


def _id(value: Any) -> bool:
    return type(value) is int and value >= 0


def _ids(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_id, value))


_FLAG = (lambda value: type(value) is bool, "True or False")
_TOKEN = (_id, "a token id")
_TOKENS = (lambda value: _id(value) or (_ids(value) and len(value) > 0), "a token id, or a list of them")
_LIST = (_ids, "a list of token ids")
_POSITIVE = _number(lambda value: 0 < value < float("inf"), "a number above 0")
_SHARE = _number(lambda value: 0 <= value <= 1, "a number in [0, 1]")
_SHARE_ABOVE = _number(lambda value: 0 < value <= 1, "a number in (0, 1]")
_ANY_NUMBER = _number(lambda value: abs(value) < float("inf"), "a number")

# Which settings, what a value must satisfy, and the words for it; None means the default anywhere.
RULES: tuple[tuple[tuple[str, ...], Test, str], ...] = (
    (("max_length", "min_length", "min_new_tokens", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "top_k"), *_whole(0)),
    (("max_new_tokens", "num_beams", "num_beam_groups", "num_return_sequences", "prompt_lookup_num_tokens",
      "max_matching_ngram_size", "num_assistant_tokens"), *_whole(1)),
    (("do_sample", "remove_invalid_values", "renormalize_logits", "use_cache", "return_dict_in_generate", "output_scores",
      "output_logits", "output_attentions", "output_hidden_states"), *_FLAG),
    (("temperature", "repetition_penalty", "encoder_repetition_penalty", "max_time"), *_POSITIVE),
    (("min_p", "penalty_alpha", "epsilon_cutoff", "eta_cutoff", "assistant_confidence_threshold"), *_SHARE),
    (("top_p", "typical_p", "top_h"), *_SHARE_ABOVE),
    (("length_penalty", "diversity_penalty", "guidance_scale", "frequency_penalty", "presence_penalty"), *_ANY_NUMBER),
    (("pad_token_id", "bos_token_id", "forced_bos_token_id"), *_TOKEN),
    (("eos_token_id", "forced_eos_token_id", "decoder_start_token_id"), *_TOKENS),
    (("suppress_tokens", "begin_suppress_tokens"), *_LIST),
    (("force_words_ids",),
     lambda words: _lists(words) and all(_ids(word) or (_lists(word) and all(map(_ids, word))) for word in words),
     "for each word a list of token ids, or a list of such forms of it, none empty"),
    (("bad_words_ids",), lambda words: _lists(words) and all(map(_ids, words)), "a list of lists of token ids, none empty"),
    (("sequence_bias",), lambda value: len(biases(value)) > 0, "{(1, 2): -1.0}, or [[[1, 2], -1.0]]: token ids and a number"),
    (("early_stopping",), lambda value: value in (True, False, "never"), "True, False or 'never'"),
    (("stop_strings",), lambda value: bool(strings(value)) and all(strings(value)), "a text, or a list of them, none empty"),
    (("exponential_decay_length_penalty",),
     lambda pair: isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(each, int | float) for each in pair),
     "(new tokens to begin at, factor)"),
    (("dola_layers",), lambda value: value in ("low", "high") or (_ids(value) and len(value) > 0),
     "'low', 'high' or a list of layers"),
    (("num_assistant_tokens_schedule",), lambda value: value in ("constant", "heuristic", "heuristic_transient"),
     "'constant', 'heuristic' or 'heuristic_transient'"),
    (("cache_implementation",), lambda value: value in ("dynamic", "static", "hybrid"), "'dynamic', 'static' or 'hybrid'"),
    (("seed",), lambda value: type(value) is int or (isinstance(value, Sequence) and all(type(each) is int for each in value)),
     "a whole number, or one for each prompt"),
)  # fmt: skip


Rules = tuple[tuple[tuple[str, ...], Test, str], ...]


def check_values(values: Mapping[str, Any], rules: Rules = RULES) -> None:
    """Raises ValueError for a value that cannot be, naming it and what is accepted."""
    for names, test, words in rules:
        for name in names:
            value = values.get(name)
            if value is not None and not _passes(test, value):
                raise ValueError(f"{name} must be {words}, got {printable(repr(value))}")


_OF_TOKENS = (
    "forced_bos_token_id", "forced_eos_token_id", "decoder_start_token_id", "suppress_tokens", "begin_suppress_tokens",
    "bad_words_ids", "force_words_ids",
)  # fmt: skip


def check_tokens(settings: Settings, vocabulary: int) -> None:
    """Raises ValueError for a token id that a vocabulary does not have, naming the setting."""
    told = {name: getattr(settings, name) for name in _OF_TOKENS}
    for name, value in {**told, "sequence_bias": [*biases(settings.sequence_bias or ())]}.items():
        if any(token >= vocabulary for token in _flat(value)):
            raise ValueError(f"{name} must be of ids below vocab_size={vocabulary}, got {printable(repr(value))}")


def _flat(value: Any) -> Iterator[int]:
    for each in () if value is None else (value,) if isinstance(value, int) else value:
        yield from (each,) if isinstance(each, int) else _flat(each)


def settings_of(values: Mapping[str, Any]) -> Settings:
    """All settings, from those that are given; None stands for the default."""
    return Settings(**{name: value for name in NAMES if (value := values.get(name)) is not None})


def many(ids: int | Iterable[int] | None) -> list[int]:
    """One id, several or none, as a list."""
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def strings(given: Any) -> list[str]:
    """One text, or several, as a list."""
    return [given] if isinstance(given, str) else list(given or ())


def biases(given: Any) -> dict[tuple[int, ...], float]:
    """`sequence_bias` as a dictionary; what is none is left out."""
    pairs = given.items() if isinstance(given, Mapping) else given
    return {tuple(ids): float(bias) for ids, bias in pairs if len(ids) > 0 and _ids(list(ids))}


def _lists(words: Any) -> bool:
    return isinstance(words, list | tuple) and bool(words) and all(words)


def _passes(test: Test, value: Any) -> bool:
    try:
        return bool(test(value))
    except (TypeError, ValueError, AttributeError):
        return False
