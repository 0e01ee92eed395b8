"""`generate` for pairs: the source is read once, then the decoder writes, beginning with its start token."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from minitrans.generation.call import WORDS, Request
from minitrans.generation.decoding import Output, Running
from minitrans.generation.settings import many
from minitrans.generation.text import Prompts
from minitrans.layers.cache import Cache
from minitrans.models.arguments import refuse_unknown
from minitrans.models.generative import Generative, Start, moved
from minitrans.models.inputs import check_shape
from minitrans.models.outputs import CausalOutput


class GenerativePair(Generative):
    """What a pair with a language-modelling head can do: write what follows from a source.

    The class beside it has `pair`, whose `encode` makes the memory and whose `decoder` reads it, and `score`.
    """

    seen_names = MappingProxyType(
        {
            "hidden_states": "decoder_hidden_states",
            "attentions": "decoder_attentions",
            "cross_attentions": "cross_attentions",
        }
    )

    @property
    def pair(self) -> Any:
        """The pair."""
        raise NotImplementedError

    def score(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        raise NotImplementedError

    @property
    def writer(self) -> Any:
        """The decoder."""
        return self.pair.decoder

    def score_states(self, hidden: Tensor) -> Tensor:
        """See `Generative`."""
        return self.score(hidden)

    def start(self, request: Request) -> Start:
        """Reads the source: (B, S) input_ids and attention_mask, or encoder_outputs and its mask."""
        inputs = dict(request.inputs)
        names = ("input_ids", "attention_mask", "encoder_outputs", "inputs_embeds")
        ids, mask, made, vectors = (inputs.pop(name, None) for name in names)
        target, target_mask = inputs.pop("decoder_input_ids", None), inputs.pop("decoder_attention_mask", None)
        cache = inputs.pop("past_key_values", None)
        further = {name: inputs.pop(name) for name in self.pair.source_words if name in inputs}
        refuse_unknown(inputs, self.pair, WORDS)
        if sum(given is not None for given in (ids, made, vectors)) != 1:
            raise ValueError(
                "a pair writes what follows from a source: give input_ids, inputs_embeds or encoder_outputs, one of them"
            )
        looks, seen = request.settings.looks, {}
        if made is None:
            left, order = self.prompts_of(ids, mask, request, self.pair.encoder, vectors)
            source, places = left.on_the_right()  # where padding moves no position
            came = order.gather(1, places)
            read = {name: each.expand(order.shape).gather(1, came) for name, each in further.items()}
            read |= {"input_ids": source.ids} if vectors is None else {"inputs_embeds": moved(vectors, came)}
            encoded = self.pair.encode(
                attention_mask=source.real, output_attentions=looks["attentions"],
                output_hidden_states=looks["hidden_states"], **read,
            )  # fmt: skip
            seen = {"encoder_attentions": encoded.attentions, "encoder_hidden_states": encoded.hidden_states}
            made, mask = (encoded.last_hidden_state,), source.real
        else:
            mask = torch.ones(made[0].shape[:2], device=made[0].device) if mask is None else mask
            source = Prompts(
                torch.zeros_like(mask, dtype=torch.long), torch.zeros_like(mask, dtype=torch.bool)
            )  # unknown
        begin = self._begin(request, len(made[0]), made[0].device)
        if target is None:
            prompts = Prompts(begin, torch.ones_like(begin, dtype=torch.bool))
        else:
            check_shape("decoder_input_ids", target, "(B, T)", (len(begin), target.shape[-1]))
            target_mask = torch.ones_like(target) if target_mask is None else target_mask
            if bool((target[:, :1] != begin).all()):
                target = torch.cat([begin, target], dim=1)
                target_mask = torch.cat([torch.ones_like(begin), target_mask], dim=1)
            prompts, _ = self.prompts_of(target, target_mask, request)
        return Start(prompts, source, {"memory": self.pair.seen(made[0]), "memory_mask": mask != 0}, cache, seen)

    def _begin(self, request: Request, rows: int, device: torch.device) -> Tensor:
        """(B, 1) the tokens that targets begin with."""
        settings = request.settings
        begin = many(
            settings.bos_token_id if settings.decoder_start_token_id is None else settings.decoder_start_token_id
        )
        if len(begin) not in (1, rows):
            raise ValueError(
                f"decoder_start_token_id must be the token that a target begins with, or one for each of the {rows} sources, "
                f"got {begin or None}: set it in the call, or in model.generation_config"
            )
        return torch.tensor(begin, device=device).expand(rows)[:, None]

    def step(
        self, tokens: Tensor, *, mask: Tensor | None, places: Tensor, cache: Cache | None, use_cache: bool,
        beside: Mapping[str, Tensor], keep: int, states: bool, attentions: bool, first: int,
    ) -> Output:  # fmt: skip
        """See `Generative`."""
        body = self.writer(
            input_ids=tokens, attention_mask=mask, position_ids=places + first, encoder_hidden_states=beside["memory"],
            encoder_attention_mask=beside["memory_mask"], past_key_values=cache, use_cache=use_cache, padding="keep",
            output_hidden_states=states, output_attentions=attentions, return_dict=True,
        )  # fmt: skip
        output: Any = CausalOutput(
            None, self.score(body.last_hidden_state[:, -keep:]), body.past_key_values, hidden_states=body.hidden_states,
            attentions=body.attentions, cross_attentions=body.cross_attentions,
        )  # fmt: skip
        return output  # type: ignore[no-any-return]

    def _guided(self, request: Request, run: Running) -> Running:
        """Of earlier layers."""
        if request.settings.guidance_scale != 1.0:
            raise ValueError("guidance_scale moves away from another prompt, and a pair has none: leave it out")
        return super()._guided(request, run)
