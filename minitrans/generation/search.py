"""Which search a call asks for, and what does not go together: a row for each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from minitrans.generation.assisted import assisted
from minitrans.generation.beam import beam_search
from minitrans.generation.contrastive import contrastive_search
from minitrans.generation.decoding import Running
from minitrans.generation.forced import forced_beam_search
from minitrans.generation.job import Job, Written
from minitrans.generation.sampling import sample
from minitrans.generation.settings import Settings

logger = logging.getLogger("minitrans")
Search = Callable[[Running, Job], Written]


@dataclass(frozen=True)
class Asked:
    """What decides on the search.

    Attributes:
        settings: of the call.
        has_draft: whether something drafts: a smaller model, or the text itself.
        has_streamer: whether somebody listens.
    """

    settings: Settings
    has_draft: bool = False
    has_streamer: bool = False

    @property
    def is_constrained(self) -> bool:
        """Whether words are forced."""
        return self.settings.force_words_ids is not None

    @property
    def is_contrastive(self) -> bool:
        """Whether contrastive search is meant."""
        return bool(self.settings.penalty_alpha)


class Kind(NamedTuple):
    """A search, and when it is meant."""

    name: str
    is_meant: Callable[[Asked], Any]
    search: Search


# The first that is meant
KINDS: tuple[Kind, ...] = (
    Kind("forced words", lambda a: a.is_constrained, forced_beam_search),
    Kind("beams", lambda a: a.settings.num_beams > 1, beam_search),
    Kind("assisted", lambda a: a.has_draft, assisted),
    Kind("contrastive", lambda a: a.is_contrastive, contrastive_search),
    Kind("sampling", lambda a: True, sample),
)

# What does not go together, and what to do; the first that holds is raised
CLASHES: tuple[tuple[Callable[[Asked, Settings], Any], str], ...] = (
    (lambda a, s: s.num_beams == 1 and s.num_return_sequences > 1 and not s.do_sample,
     "greedy search writes one text: num_return_sequences={s.num_return_sequences} needs do_sample=True, or as many num_beams"),
    (lambda a, s: s.num_beams > 1 and s.num_return_sequences > s.num_beams,
     "num_return_sequences must be at most num_beams={s.num_beams}, got {s.num_return_sequences}"),
    (lambda a, s: s.num_beams % s.num_beam_groups,
     "num_beam_groups must divide num_beams={s.num_beams}, got {s.num_beam_groups}"),
    (lambda a, s: s.num_beam_groups > 1 and s.do_sample, "groups of beams are not sampled: leave one of them out"),
    (lambda a, s: s.num_beam_groups > 1 and s.diversity_penalty <= 0,
     "without a diversity_penalty above 0 all groups of beams would be the same: set it, or leave num_beam_groups out"),
    (lambda a, s: s.diversity_penalty and s.num_beam_groups == 1,
     "diversity_penalty is between groups of beams: set num_beam_groups, or leave it out"),
    (lambda a, s: a.is_constrained and (s.num_beams == 1 or s.do_sample or s.num_beam_groups > 1),
     "forced words need beams that are searched: set num_beams above 1, and leave do_sample and num_beam_groups out"),
    (lambda a, s: a.is_contrastive and (s.num_beams > 1 or s.do_sample or s.top_k < 2 or s.num_return_sequences > 1),
     "penalty_alpha means contrastive search: set top_k of at least 2, leave num_beams, do_sample, num_return_sequences out"),
    (lambda a, s: s.dola_layers is not None and (s.num_beams > 1 or a.is_contrastive or a.has_draft),
     "dola_layers goes with greedy search and sampling: leave num_beams, penalty_alpha and drafts out"),
    (lambda a, s: s.dola_layers is not None and s.guidance_scale != 1, "dola_layers or guidance_scale: leave one out"),
    (lambda a, s: a.has_draft and (s.num_beams > 1 or a.is_contrastive or s.num_return_sequences > 1),
     "a draft goes with greedy search and sampling of one text a prompt: leave num_beams, penalty_alpha and num_return_sequences "
     "out, or assistant_model and prompt_lookup_num_tokens"),
    (lambda a, s: a.has_draft and s.guidance_scale != 1, "a draft does not go with guidance_scale: leave one of them out"),
    (lambda a, s: a.has_draft and (not s.use_cache or s.cache_implementation == "static"),
     "a draft needs a growing cache: leave use_cache=False and cache_implementation='static' out"),
    (lambda a, s: a.has_draft and any(s.looks.values()),
     "a draft reads several tokens at once: leave output_attentions and output_hidden_states out, or the draft"),
    (lambda a, s: a.is_contrastive and not s.use_cache, "contrastive search needs a cache: leave use_cache=False out"),
    (lambda a, s: a.has_streamer and s.num_beams > 1, "a streamer shows text that stays, beams change it: leave one out"),
    (lambda a, s: s.cache_implementation == "static" and not s.use_cache, "cache_implementation='static' needs use_cache=True"),
)  # fmt: skip

# Settings that change nothing, and when: told where a call gives them
IDLE: tuple[tuple[tuple[str, ...], Callable[[Settings], bool], str], ...] = (
    (("temperature", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff", "seed"), lambda s: not s.do_sample,
     "do_sample=True"),
    (("top_k",), lambda s: not s.do_sample and not s.penalty_alpha, "do_sample=True"),
    (("early_stopping", "length_penalty"), lambda s: s.num_beams == 1, "num_beams above 1"),
    (("output_scores", "output_logits", "output_attentions", "output_hidden_states"), lambda s: not s.return_dict_in_generate,
     "return_dict_in_generate=True"),
    (("min_length", "min_new_tokens", "exponential_decay_length_penalty"), lambda s: not s.eos, "an eos_token_id"),
)  # fmt: skip


def search_of(asked: Asked, given: Mapping[str, Any]) -> Search:
    """The search that is meant. Raises ValueError for what does not go together; logs which of the `given` settings are idle."""
    settings = asked.settings
    for clash, words in CLASHES:
        if clash(asked, settings):
            raise ValueError(words.format(s=settings))
    for names, is_idle, needed in IDLE:
        idle = [name for name in names if given.get(name) is not None]
        if idle and is_idle(settings):
            logger.warning("generate: %s: nothing changes by it without %s", ", ".join(idle), needed)
    return next(kind.search for kind in KINDS if kind.is_meant(asked))
