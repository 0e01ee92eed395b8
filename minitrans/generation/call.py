"""A call to `generate`, read: which of its words are settings, which go with them, and which are inputs of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from minitrans.generation.config import OTHERS, GenerationConfig
from minitrans.generation.job import Streamer
from minitrans.generation.processing import Wanted, processors
from minitrans.generation.search import Asked
from minitrans.generation.settings import NAMES, Rules, Settings, check_values, settings_of, strings
from minitrans.generation.stopping import after, any_of, ended_by, ended_by_text, full, of_user
from minitrans.generation.text import Processor, Prompts, Stop
from minitrans.layers.cache import Cache
from minitrans.words import read_words


@dataclass(frozen=True, kw_only=True)
class Helpers:
    """What a call gives besides settings and inputs; `generate` explains the names."""

    logits_processor: Sequence[Callable[[Tensor, Tensor], Tensor]] | None = None
    stopping_criteria: Sequence[Callable[..., Any]] | None = None
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | None = None
    assistant_model: Any = None
    streamer: Streamer | None = None
    negative_prompt_ids: Tensor | None = None
    negative_prompt_attention_mask: Tensor | None = None
    tokenizer: Any = None
    generator: torch.Generator | None = None


_HELPERS = tuple(item.name for item in fields(Helpers))
WORDS = (*NAMES, *_HELPERS, "generation_config")  # of a call, besides the inputs of the model

_TENSORS = ("inputs_embeds", "attention_mask", "decoder_input_ids", "decoder_attention_mask", "encoder_hidden_states",
            "negative_prompt_ids", "negative_prompt_attention_mask", "token_type_ids")  # fmt: skip
# What a call gives besides settings: a value that is not None must satisfy its test
GIVEN: Rules = (
    (("input_ids",), lambda value: not hasattr(value, "keys"), "a tensor: call generate(**inputs)"),
    (("logits_processor", "stopping_criteria"), lambda value: all(map(callable, value)), "a list of functions"),
    (("prefix_allowed_tokens_fn",), callable, "a function (number of the prompt, ids) -> token ids"),
    (("tokenizer",), lambda value: callable(value.decode), "a tokenizer, which decodes"),
    (("generator",), lambda value: isinstance(value, torch.Generator), "a torch.Generator"),
    (("past_key_values",), lambda value: isinstance(value, Cache), "past_key_values of an output of this library"),
    (("encoder_outputs",), lambda value: value[0].dim() == 3, "an output of encode, or a tuple that begins with (B, S, D)"),
    (_TENSORS, lambda value: isinstance(value, Tensor), "a tensor"),
    (("generation_config",), lambda value: isinstance(value, GenerationConfig), "a GenerationConfig: GenerationConfig(**it)"),
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """A call.

    Attributes:
        settings: those that hold.
        helpers: what goes with them.
        inputs: of the model.
        given: the settings that the call itself gave.
    """

    settings: Settings
    helpers: Helpers
    inputs: dict[str, Any]
    given: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, words: Mapping[str, Any], *configs: GenerationConfig | None) -> Request:
        """From the words of a call, over settings of `configs`, of which the later ones hold.

        Raises:
            ValueError: for a setting that cannot be, or is not offered; it says what to do instead.
        """
        _, rest = read_words(OTHERS, words, "generate", {})
        given = {name: value for name, value in rest.items() if name in NAMES}
        check_values(given)
        check_values({**words, "generation_config": configs[-1] if configs else None}, GIVEN)
        values: dict[str, Any] = {}
        for each in (*(config.to_dict() for config in configs if config is not None), given):
            values |= each
        if given.get("max_new_tokens") is not None and "max_length" not in given:
            values["max_length"] = None
        if given.get("max_length") is not None and "max_new_tokens" not in given:
            values["max_new_tokens"] = None
        helpers = Helpers(**{name: rest[name] for name in _HELPERS if name in rest})
        inputs = {name: value for name, value in rest.items() if name not in (*NAMES, *_HELPERS) and value is not None}
        return cls(settings_of(values), helpers, inputs, given)

    @property
    def asked(self) -> Asked:
        """What decides on the search."""
        has_draft = self.helpers.assistant_model is not None or self.settings.prompt_lookup_num_tokens is not None
        return Asked(self.settings, has_draft, self.helpers.streamer is not None)

    def processors(self, source: Prompts) -> list[tuple[str, Processor]]:
        """What scores go through, by name, in order."""
        own, allowed = self.helpers.logits_processor or (), self.helpers.prefix_allowed_tokens_fn
        return processors(Wanted(self.settings, source.ids, source.real, own, allowed))

    def ended(self) -> Stop:
        """When a text has ended. Raises ValueError for strings without a tokenizer."""
        settings, helpers = self.settings, self.helpers
        each: list[Stop] = [full]
        if settings.eos:
            each.append(ended_by(settings.eos))
        if settings.max_time is not None:
            each.append(after(settings.max_time))
        if settings.stop_strings is not None:
            if helpers.tokenizer is None:
                raise ValueError("stop_strings are looked for in text: give tokenizer= too")
            each.append(ended_by_text(strings(settings.stop_strings), helpers.tokenizer.decode))
        each += map(of_user, helpers.stopping_criteria or ())
        return any_of(each)


NEW_TOKENS = 20  # where a call does not say


def room(settings: Settings, lengths: Tensor, longest: int | None) -> Tensor:
    """How many new tokens each prompt may get.

    Args:
        settings: of the call.
        lengths: (B) tokens of the prompts.
        longest: text that the model has positions for; None = no limit.

    Raises:
        ValueError: where they do not fit, or cannot be as long as they must.
    """
    most = int(lengths.max())
    if longest is not None and most > longest:
        raise ValueError(
            f"a prompt has {most} tokens, the model has positions for {longest}: cut it, with tokenizer(..., truncation=True, "
            f"max_length={longest}), or leave room for new tokens too"
        )
    if settings.max_new_tokens is not None:
        wanted = torch.full_like(lengths, settings.max_new_tokens)
    elif settings.max_length is not None:
        wanted = settings.max_length - lengths
        if most >= settings.max_length:
            raise ValueError(
                f"a prompt has {most} tokens and max_length={settings.max_length} counts them: set max_new_tokens"
            )
    else:
        wanted = (lengths.new_tensor(NEW_TOKENS) if longest is None else longest + 1 - lengths).clamp(max=NEW_TOKENS)
        wanted = wanted.expand_as(lengths)
    end = int((lengths + wanted).max())
    if longest is not None and end > longest + 1:  # the last token is not read
        raise ValueError(
            f"a text would have up to {end} tokens, the model has positions for {longest}: ask for at most "
            f"max_new_tokens={longest + 1 - most}, or cut the prompts"
        )
    least = torch.maximum(settings.min_length - lengths, torch.full_like(lengths, settings.min_new_tokens))
    if bool((least > wanted).any()):
        raise ValueError(
            f"min_length or min_new_tokens ask for {int(least.max())} new tokens, there may be {int(wanted.min())}: raise "
            "max_new_tokens"
        )
    return wanted
