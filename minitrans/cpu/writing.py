"""What `generate` asks of a prepared model at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from minitrans.attention.context import Context
from minitrans.attention.mask import NO_MASK, AttentionMask
from minitrans.layers.cache import Cache
from minitrans.models.outputs import CausalOutput
from minitrans.models.pair_tasks import ConditionalGeneration


class Writer:
    """Mixed into a prepared model that writes: a step goes from the embeddings to the scores without the door of the model.

    `generate` has checked its prompts, and what it writes needs no check. What a step has besides tokens and a source goes the
    long way.
    """

    def step(self, tokens: Tensor, *, cache: Cache | None, beside: Mapping[str, Tensor], **asked: Any) -> Any:
        """See `minitrans.models.generative.Generative`."""
        model: Any = self
        besides = beside.keys() - {"memory", "memory_mask"} or asked["states"] or asked["attentions"]
        if besides or not asked["use_cache"] or cache is None or cache.capacity is not None:
            return super().step(tokens, cache=cache, beside=beside, **asked)  # type: ignore[misc]
        places, real, memory_mask = asked["places"] + asked["first"], asked["mask"], beside.get("memory_mask")
        if memory_mask is not None and bool(memory_mask.all()):
            memory_mask = None
        context = Context(
            AttentionMask(real, causal=True), positions=places, memory=beside.get("memory"),
            memory_mask=NO_MASK if memory_mask is None else AttentionMask(memory_mask),
        )  # fmt: skip
        body, longer = model.writer, cache.fork()
        out = body.encoder(body.embeddings(tokens, places, None), context, longer)
        return CausalOutput(None, model.score(out.output[:, -asked["keep"] :]), longer)


class BiasInHead:
    """Mixed into one whose prepared head adds the bias that stands beside it (S3)."""

    def score(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return ConditionalGeneration.score(self, hidden)  # type: ignore[arg-type]
