"""Mistral: LLaMA in which a token sees no further than a window (Jiang et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

from minitrans.attention.past_window import PastWindow
from minitrans.attention.variant import LayerSizes, Variant
from minitrans.models import llama
from minitrans.models.config import Rule


@dataclass(kw_only=True)
class MistralConfig(llama.LlamaArchitectureConfig):
    """The defaults are the reference's; the meaning of the other fields stands in `llama.py`."""

    model_type: ClassVar[str] = "mistral"
    rules: ClassVar[tuple[Rule, ...]] = (
        *llama.LlamaArchitectureConfig.rules,
        (("sliding_window",), lambda window, c: window is None or window >= 1, "at least 1"),
    )

    vocab_size: int = 32000
    intermediate_size: int = 14336
    hidden_act: str = "silu"  # of the gate
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 131072
    sliding_window: int | None = 4096  # tokens that one sees, itself among them; None = all

    def window_of(self, layer: int) -> int | None:
        """The window of this layer, from 0."""
        return self.sliding_window


class WindowedBody(llama.LlamaBody):
    """A LLaMA whose configuration says which layer has which window."""

    def variants(self, config: llama.LlamaArchitectureConfig, sizes: LayerSizes) -> list[Variant]:
        """As LLaMA's, with a window."""
        window = cast("MistralConfig", config).window_of(sizes.layer)
        return [*super().variants(config, sizes), *([] if window is None else [PastWindow(sizes, window)])]


class MistralModel(WindowedBody):
    """The body of Mistral."""

    config_class = MistralConfig


class MistralForCausalLM(llama.CausalLM):
    """Mistral with a head that scores the next token."""

    body_class = MistralModel


class MistralForSequenceClassification(llama.SequenceClassification):
    """Mistral with a linear classifier on the last token."""

    body_class = MistralModel


class MistralForTokenClassification(llama.TokenClassification):
    """Mistral with a linear classifier on every token."""

    body_class = MistralModel


class MistralForQuestionAnswering(llama.QuestionAnswering):
    """Mistral with a head that scores every token as the first and as the last of the answer."""

    body_class = MistralModel
