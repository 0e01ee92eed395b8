"""FNet: BERT whose tokens are mixed by a Fourier transform (Lee-Thorp et al. 2021). What differs from `bert.py`:

no attention, and so no attention to be swapped, no heads, no probabilities; padding is mixed in, whatever the mask says (FN1);
a projection on the embeddings before their dropout; every head has the pooler below it, used or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from minitrans.layers.block import Block
from minitrans.layers.embeddings import Embeddings
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.fourier import FourierMixer
from minitrans.layers.norms import LayerNorm
from minitrans.layers.stack import Stack
from minitrans.models import language_tasks, tasks
from minitrans.models.arguments import in_order
from minitrans.models.backbone import Backbone
from minitrans.models.config import SIZE, EncoderConfig, Rule

ORDER = "input_ids token_type_ids position_ids inputs_embeds {}output_hidden_states return_dict"


@dataclass(kw_only=True)
class FNetConfig(EncoderConfig):
    """The defaults are those of fnet-base; the meaning of the other fields stands in `config.py`."""

    model_type: ClassVar[str] = "fnet"
    lacking: ClassVar[Mapping[str, Any]] = {
        **EncoderConfig.lacking, "num_attention_heads": 1, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    reference_defaults: ClassVar[Mapping[str, object]] = {"layer_norm_eps": 1e-12, "type_vocab_size": 4}
    rules: ClassVar[tuple[Rule, ...]] = (
        *EncoderConfig.rules,
        (("type_vocab_size",), *SIZE),
    )

    vocab_size: int = 32000
    hidden_size: int = 768
    num_hidden_layers: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    initializer_range: float = 0.02
    type_vocab_size: int = 4
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 3
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2


class FNetEmbeddings(Embeddings):
    """Those of BERT, with a projection between norm and dropout.

    Args:
        config: sizes and rates.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(
            config.vocab_size,
            config.hidden_size,
            max_positions=config.max_position_embeddings,
            type_vocab_size=config.type_vocab_size,
            padding_idx=config.pad_token_id,
            eps=config.layer_norm_eps,
            project_to=config.hidden_size,
        )
        self.last_dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, tokens: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        """As of `Embeddings`."""
        x: Tensor = self.last_dropout(super().forward(tokens, positions, types))
        return x


class FNetModel(Backbone):
    """Embeddings, L post-norm blocks that mix by a Fourier transform, and a pooler on the first token.

    Args:
        config: sizes and rules.
        add_pooling_layer: whether to have the pooler.
    """

    config_class = FNetConfig
    base_model_prefix = "fnet"
    forward = in_order(Backbone, ORDER.format(""))

    def build(self, config: EncoderConfig) -> None:
        """Bottom up; nothing is dropped of what is mixed."""
        self.embeddings = FNetEmbeddings(config)
        self.encoder = Stack(
            Block(
                FourierMixer(),
                FeedForward(config.hidden_size, config.intermediate_size, act=config.hidden_act),
                [LayerNorm(config.hidden_size, config.layer_norm_eps) for _ in range(2)],
                feed_forward_dropout=config.hidden_dropout_prob,
            )
            for _ in range(config.num_hidden_layers)
        )

    def why_not(self, what: str) -> str | None:
        """It takes in padding (FN1)."""
        return "a Fourier transform, which mixes padding in (FN1)"


class FNetForPreTraining(language_tasks.PreTraining):
    """FNet with its two pre-training heads: masked tokens, and whether the second sentence follows the first."""

    body_class = FNetModel
    forward = in_order(language_tasks.PreTraining, ORDER.format("labels next_sentence_label "))


class FNetForMaskedLM(language_tasks.MaskedLM):
    """FNet with a head that scores the vocabulary at every token."""

    body_class = FNetModel
    needs_pooler = True
    forward = in_order(language_tasks.MaskedLM, ORDER.format("labels "))


class FNetForNextSentencePrediction(language_tasks.NextSentencePrediction):
    """FNet with a head that tells whether the second sentence follows the first."""

    body_class = FNetModel
    forward = in_order(language_tasks.NextSentencePrediction, ORDER.format("labels "))


class FNetForSequenceClassification(tasks.SequenceClassification):
    """FNet with a linear classifier on the pooled first token."""

    body_class = FNetModel
    forward = in_order(tasks.SequenceClassification, ORDER.format("labels "))


class FNetForTokenClassification(tasks.TokenClassification):
    """FNet with a linear classifier on every token."""

    body_class = FNetModel
    needs_pooler = True
    forward = in_order(tasks.TokenClassification, ORDER.format("labels "))


class FNetForQuestionAnswering(tasks.QuestionAnswering):
    """FNet with a head that scores every token as the first and as the last of the answer."""

    body_class = FNetModel
    needs_pooler = True
    forward = in_order(tasks.QuestionAnswering, ORDER.format("start_positions end_positions "))


class FNetForMultipleChoice(tasks.MultipleChoice):
    """FNet with a head that scores each of several texts."""

    body_class = FNetModel
    forward = in_order(tasks.MultipleChoice, ORDER.format("labels "))
