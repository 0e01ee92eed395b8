"""Qwen2: LLaMA with biases on queries, keys and values, and perhaps a window in its last layers (Yang et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.models import llama
from minitrans.models.config import Rule
from minitrans.models.mistral import WindowedBody

LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(kw_only=True)
class LayerTypesConfig(llama.LlamaArchitectureConfig):
    """Of families whose layers differ in whether they have a window."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *llama.LlamaArchitectureConfig.rules,
        (("sliding_window",), lambda window, c: window is None or window >= 1, "at least 1"),
        (
            ("layer_types",),
            lambda kinds, c: kinds is None or (len(kinds) == c.num_hidden_layers and set(kinds) <= set(LAYER_TYPES)),
            f"one of {', '.join(LAYER_TYPES)} for each layer",
        ),
    )

    sliding_window: int | None = 4096  # tokens that one sees, itself among them, in some layers
    layer_types: list[str] | None = None  # which: LAYER_TYPES; None = as the family has it

    def has_window(self, layer: int) -> bool:
        """Whether this layer, from 0, has the window where the file does not say."""
        raise NotImplementedError

    def window_of(self, layer: int) -> int | None:
        """The window of this layer, from 0."""
        windowed = self.has_window(layer) if self.layer_types is None else self.layer_types[layer] == LAYER_TYPES[1]
        return self.sliding_window if windowed else None


@dataclass(kw_only=True)
class QwenConfig(LayerTypesConfig):
    """What Qwen2 and Qwen3 share."""

    vocab_size: int = 151936
    intermediate_size: int = 22016
    hidden_act: str = "silu"  # of the gate
    num_key_value_heads: int | None = 32
    max_position_embeddings: int = 32768
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    use_sliding_window: bool = False  # whether any layer has the window
    max_window_layers: int = 28  # from which layer on

    def has_window(self, layer: int) -> bool:
        """From the bottom up, layers without one come first."""
        return layer >= self.max_window_layers

    def window_of(self, layer: int) -> int | None:
        """The window of this layer, if there are any."""
        return super().window_of(layer) if self.use_sliding_window else None


@dataclass(kw_only=True)
class Qwen2Config(QwenConfig):
    """The defaults are the reference's."""

    model_type: ClassVar[str] = "qwen2"


class Qwen2Model(WindowedBody):
    """The body of Qwen2."""

    config_class = Qwen2Config

    def attention(self, config: llama.LlamaArchitectureConfig, layer: int, **options: Any) -> MultiHeadAttention:
        """As LLaMA's, with biases before the attention and none after."""
        return super().attention(config, layer, bias=True, output_bias=False, **options)


class Qwen2ForCausalLM(llama.CausalLM):
    """Qwen2 with a head that scores the next token."""

    body_class = Qwen2Model


class Qwen2ForSequenceClassification(llama.SequenceClassification):
    """Qwen2 with a linear classifier on the last token."""

    body_class = Qwen2Model


class Qwen2ForTokenClassification(llama.TokenClassification):
    """Qwen2 with a linear classifier on every token."""

    body_class = Qwen2Model


class Qwen2ForQuestionAnswering(llama.QuestionAnswering):
    """Qwen2 with a head that scores every token as the first and as the last of the answer."""

    body_class = Qwen2Model
    base_model_prefix = "transformer"  # as LLaMA's
