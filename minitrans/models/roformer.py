"""RoFormer: BERT whose positions turn queries and keys (Su et al. 2021). What differs from `bert.py`:

no position table in the embeddings, which may be narrower than the model, with a projection between; the sines and cosines of
the turns are a table of its own, which is stored and not trained (RF1); no pooler; sequences are classified by two layers with
the activation of the configuration between, and choices by what the last token became.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from minitrans.attention.context import Context
from minitrans.attention.variant import LayerSizes
from minitrans.attention.variants.rotary import Rotary
from minitrans.layers.cache import Cache
from minitrans.layers.embeddings import Embeddings
from minitrans.layers.heads import ClassificationHead
from minitrans.layers.positions import sinusoidal_table
from minitrans.layers.stack import Stack, StackOutput
from minitrans.models import electra, language_tasks, tasks
from minitrans.models.arguments import in_order
from minitrans.models.backbone import Backbone, build_block, layer_sizes
from minitrans.models.config import BertLikeConfig, EncoderConfig, Rule

TURNS = "roformer.turns"
# of the reference's forwards, which have no position_ids
ORDER = "input_ids attention_mask token_type_ids inputs_embeds {} output_attentions output_hidden_states return_dict"
MEMORY = "encoder_hidden_states encoder_attention_mask {}"


@dataclass(kw_only=True)
class RoFormerConfig(BertLikeConfig):
    """The defaults are those of roformer_chinese_base; the meaning of the other fields stands in `config.py`."""

    model_type: ClassVar[str] = "roformer"
    rules: ClassVar[tuple[Rule, ...]] = (
        *BertLikeConfig.rules,
        (("position_embedding_type",), lambda kind, c: kind == "absolute", "absolute: queries and keys turn, nothing else"),
        (("summary_type",), *electra.SUMMARY),
        (("hidden_size",), lambda width, c: width // c.num_attention_heads % 2 == 0, "an even number a head: pairs turn"),
    )  # fmt: skip

    vocab_size: int = 50000
    embedding_size: int | None = None  # width of the tables of tokens; None = hidden_size
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 1536
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    rotary_value: bool = False  # turn the values too
    summary_type: str = "last"  # what stands for a text of multiple choice, and the four below: see `ElectraConfig`
    summary_first_dropout: float = 0.0
    summary_use_proj: bool = False
    summary_activation: str | None = None
    summary_last_dropout: float = 0.0

    @property
    def head_dropout(self) -> float:
        """The dropout before a classifier; there is no other in this family, whatever classifier_dropout says."""
        return self.hidden_dropout_prob

    def __post_init__(self) -> None:
        self.embedding_size = self.hidden_size if self.embedding_size is None else self.embedding_size
        super().__post_init__()


class TableRotary(Rotary):
    """Turns by the table that the stack has left in the context.

    Args:
        sizes: of the block.
        values: whether values turn too.
    """

    def __init__(self, sizes: LayerSizes, *, values: bool) -> None:
        super().__init__(sizes, layout="interleaved")
        self.values = values

    def project(self, query: Tensor, key: Tensor, value: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys turned."""
        sin, cos = context.shared[TURNS].unsqueeze(-2 if query.dim() == 3 else -3).chunk(2, dim=-1)
        turned = self.turn(value, cos, sin) if self.values else value
        return self.turn(query, cos, sin), self.turn(key, cos, sin), turned


class TurningStack(Stack):
    """Blocks that share a table of turns: all sines of a position, then its cosines (S7).

    Args:
        config: sizes and rules.
    """

    def __init__(self, config: RoFormerConfig) -> None:
        sizes = [layer_sizes(config, layer) for layer in range(config.num_hidden_layers)]
        super().__init__(build_block(config, own=[TableRotary(each, values=config.rotary_value)]) for each in sizes)
        self.turns = nn.Embedding(config.max_position_embeddings, sizes[0].head_width)
        self.turns.weight.requires_grad_(False)  # RF1

    def forward(
        self, x: Tensor, context: Context, cache: Cache | None = None, *, keep_states: bool = False
    ) -> StackOutput:
        """As `Stack`."""
        shared = {**context.shared, TURNS: self.turns(context.positions)}
        return super().forward(x, replace(context, shared=shared), cache, keep_states=keep_states)


class RoFormerModel(Backbone):
    """Embeddings without positions, and L post-norm blocks that turn queries and keys.

    Args:
        config: sizes and rules.
    """

    config_class = RoFormerConfig
    base_model_prefix = "roformer"
    has_pooler = False
    forward = in_order(Backbone, ORDER.format(MEMORY.format("past_key_values use_cache")))

    def build(self, config: EncoderConfig) -> None:
        """As BERT without its position table; the projection is there only where the widths differ, as in ELECTRA."""
        config = cast("RoFormerConfig", config)
        self.embeddings = Embeddings(
            config.vocab_size,
            cast("int", config.embedding_size),
            type_vocab_size=config.type_vocab_size,
            padding_idx=config.pad_token_id,
            eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
            project_to=config.hidden_size if config.hidden_size != config.embedding_size else None,
        )
        self.encoder = TurningStack(config)

    def init_weights(self, module: nn.Module | None = None) -> None:
        """The turns are those of the paper (equation 15)."""
        super().init_weights(module)
        if isinstance(self.encoder, TurningStack) and module is self.encoder.turns:
            with torch.no_grad():
                module.weight.copy_(sinusoidal_table(module.num_embeddings, module.embedding_dim, "halves"))


class RoFormerForMaskedLM(language_tasks.MaskedLMWithMemory):
    """RoFormer with a head that scores the vocabulary at every token."""

    body_class = RoFormerModel
    forward = in_order(language_tasks.MaskedLM, ORDER.format(MEMORY.format("labels")))


class RoFormerForCausalLM(language_tasks.CausalLM):
    """RoFormer as a decoder with a head that scores the next token."""

    body_class = RoFormerModel
    forward = in_order(
        language_tasks.CausalLM, f"{ORDER.format(MEMORY.format('past_key_values labels use_cache'))} logits_to_keep"
    )


class RoFormerForSequenceClassification(tasks.SequenceClassification):
    """RoFormer with a two-layer classifier on the first token."""

    body_class = RoFormerModel
    needs_pooler = False
    forward = in_order(tasks.SequenceClassification, ORDER.format("labels"))

    def build_head(self, config: EncoderConfig) -> None:
        """`classifier`, with dropout inside."""
        self.classifier = ClassificationHead(
            config.hidden_size, config.num_labels, dropout=config.hidden_dropout_prob, act=config.hidden_act
        )

    def score(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, C)."""
        scores: Tensor = self.classifier(hidden)
        return scores


class RoFormerForTokenClassification(tasks.TokenClassification):
    """RoFormer with a linear classifier on every token."""

    body_class = RoFormerModel
    forward = in_order(tasks.TokenClassification, ORDER.format("labels"))


class RoFormerForQuestionAnswering(tasks.QuestionAnswering):
    """RoFormer with a head that scores every token as the first and as the last of the answer."""

    body_class = RoFormerModel
    forward = in_order(tasks.QuestionAnswering, ORDER.format("start_positions end_positions"))


class RoFormerForMultipleChoice(electra.SummarisedChoice):
    """RoFormer with a linear score of the last token of each of several texts, padding or not."""

    body_class = RoFormerModel
    forward = in_order(tasks.MultipleChoice, ORDER.format("labels"))
