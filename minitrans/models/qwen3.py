"""Qwen3: LLaMA whose queries and keys are normalised before they turn (Yang et al. 2025); windows as in Qwen2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from minitrans.attention.variant import LayerSizes, Variant
from minitrans.attention.variants.qk_norm import QueryKeyNorm
from minitrans.models import llama
from minitrans.models.mistral import WindowedBody
from minitrans.models.qwen2 import QwenConfig


@dataclass(kw_only=True)
class Qwen3Config(QwenConfig):
    """The defaults are the reference's."""

    model_type: ClassVar[str] = "qwen3"

    head_dim: int | None = 128
    attention_bias: bool = False


class Qwen3Model(WindowedBody):
    """The body of Qwen3."""

    config_class = Qwen3Config

    def variants(self, config: llama.LlamaArchitectureConfig, sizes: LayerSizes) -> list[Variant]:
        """As Qwen2's, after the norms."""
        return [QueryKeyNorm(sizes, eps=config.rms_norm_eps), *super().variants(config, sizes)]


class Qwen3ForCausalLM(llama.CausalLM):
    """Qwen3 with a head that scores the next token."""

    body_class = Qwen3Model


class Qwen3ForSequenceClassification(llama.SequenceClassification):
    """Qwen3 with a linear classifier on the last token."""

    body_class = Qwen3Model


class Qwen3ForTokenClassification(llama.TokenClassification):
    """Qwen3 with a linear classifier on every token."""

    body_class = Qwen3Model


class Qwen3ForQuestionAnswering(llama.QuestionAnswering):
    """Qwen3 with a head that scores every token as the first and as the last of the answer."""

    body_class = Qwen3Model
    base_model_prefix = "transformer"  # as LLaMA's
