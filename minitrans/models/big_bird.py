"""BigBird: texts of thousands of tokens in blocks (Zaheer et al. 2020). What differs from `bert.py`:

longer texts than a few blocks are attended to block by block (BB1): neighbours, the first and the last block, and some at
random (BB2). Embeddings have their dropout before the norm, and every model but that of answers has a pooler (BB3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from minitrans.attention.block_sparse import BlockSparseAttention
from minitrans.attention.variant import Variant
from minitrans.layers.embeddings import Embeddings
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.heads import ClassificationHead
from minitrans.layers.losses import Items, TwoItems, span_loss
from minitrans.layers.norms import LayerNorm
from minitrans.layers.stack import Stack
from minitrans.models import language_tasks, tasks
from minitrans.models.arguments import in_order
from minitrans.models.backbone import Backbone, build_block, layer_sizes, returned
from minitrans.models.config import BertLikeConfig, EncoderConfig, Rule
from minitrans.models.outputs import SpanOutput

TYPES = ("block_sparse", "original_full")
QUESTION = 1e6  # taken from the scores of its tokens


@dataclass(kw_only=True)
class BigBirdConfig(BertLikeConfig):
    """The defaults are those of bigbird-roberta-base; the meaning of the other fields stands in `config.py`."""

    model_type: ClassVar[str] = "big_bird"
    rules: ClassVar[tuple[Rule, ...]] = (
        *BertLikeConfig.rules,
        (("attention_type",), lambda kind, c: kind in TYPES, f"one of {', '.join(TYPES)}"),
        (("block_size",), lambda size, c: size >= 1, "at least 1"),
        (("num_random_blocks",), lambda count, c: count >= 0, "at least 0"),
        (("use_bias",), lambda wanted, c: wanted, "True: queries, keys and values have one"),
        (("pruned_heads",), lambda pruned, c: not pruned, "empty: heads see blocks of their own; use head_mask"),
    )  # fmt: skip
    steering: ClassVar[frozenset[str]] = BertLikeConfig.steering | {"sep_token_id"}

    vocab_size: int = 50358
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu_new"
    max_position_embeddings: int = 4096
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    sep_token_id: int | None = 66  # ends a question
    attention_type: str = "block_sparse"  # or "original_full": every token sees all, in long texts too
    block_size: int = 64  # tokens of a block
    num_random_blocks: int = 3  # that each block sees in training
    use_bias: bool = True  # of queries, keys and values
    rescale_embeddings: bool = False  # the vectors of tokens are multiplied by the root of the width


class BigBirdEmbeddings(Embeddings):
    """LayerNorm(dropout(token + type + position)), the first perhaps times a number (BB3)."""

    factor: float = 1.0

    def forward(self, tokens: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        """As of `Embeddings`."""
        words = tokens if tokens.is_floating_point() else self.word_embeddings(tokens)
        types = torch.zeros_like(positions) if types is None else types
        kinds, places = cast("nn.Module", self.token_type_embeddings), cast("nn.Module", self.position_embeddings)
        x = self.dropout(words * self.factor + kinds(types) + places(positions))
        normed: Tensor = self.LayerNorm(x)
        return normed


class BigBirdModel(Backbone):
    """Embeddings, L post-norm blocks, and a pooler on the first token.

    Args:
        config: sizes and rules.
        add_pooling_layer: whether to have the pooler.
    """

    config_class = BigBirdConfig
    base_model_prefix = "bert"

    def build(self, config: EncoderConfig) -> None:
        """A decoder, which looks back, always attends to all."""
        config = cast("BigBirdConfig", config)
        self.embeddings = BigBirdEmbeddings(
            config.vocab_size,
            config.hidden_size,
            max_positions=config.max_position_embeddings,
            type_vocab_size=config.type_vocab_size,
            padding_idx=config.pad_token_id,
            eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        self.embeddings.factor = config.hidden_size**0.5 if config.rescale_embeddings else 1.0
        sparse = not config.is_decoder and config.attention_type == TYPES[0]
        self.encoder = Stack(
            build_block(config, own=[_block_sparse(config, layer)] if sparse else [])
            for layer in range(config.num_hidden_layers)
        )


def _block_sparse(config: BigBirdConfig, layer: int) -> Variant:
    return BlockSparseAttention(layer_sizes(config, layer), block=config.block_size, random=config.num_random_blocks)


class BigBirdForPreTraining(language_tasks.PreTraining):
    """BigBird with its two pre-training heads: masked tokens, and whether the second text follows the first."""

    body_class = BigBirdModel


class BigBirdForMaskedLM(language_tasks.MaskedLMWithMemory):
    """BigBird with a head that scores the vocabulary at every token."""

    body_class = BigBirdModel
    needs_pooler = True  # BB3


class BigBirdForCausalLM(language_tasks.CausalLM):
    """BigBird as a decoder with a head that scores the next token."""

    body_class = BigBirdModel
    needs_pooler = True  # BB3
    forward = in_order(
        language_tasks.CausalLM,
        "input_ids attention_mask token_type_ids position_ids inputs_embeds encoder_hidden_states encoder_attention_mask "
        "past_key_values labels use_cache logits_to_keep",
    )


class BigBirdForSequenceClassification(tasks.SequenceClassification):
    """BigBird with a two-layer classifier on the first token, with the activation of the blocks."""

    body_class = BigBirdModel

    def build_head(self, config: EncoderConfig) -> None:
        """`classifier`, with dropout inside."""
        width, dropout = config.hidden_size, config.head_dropout
        self.classifier = ClassificationHead(width, config.num_labels, dropout=dropout, act=config.hidden_act)

    def score(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, C)."""
        scores: Tensor = self.classifier(hidden)
        return scores


class BigBirdForTokenClassification(tasks.TokenClassification):
    """BigBird with a linear classifier on every token."""

    body_class = BigBirdModel
    needs_pooler = True  # BB3


class BigBirdForMultipleChoice(tasks.MultipleChoice):
    """BigBird with a head that scores each of several texts, with BERT's hidden dropout."""

    body_class = BigBirdModel

    def dropout_of(self, config: EncoderConfig) -> float:
        """The reference ignores `classifier_dropout` here."""
        return float(config.hidden_dropout_prob)


class AnswerHead(nn.Module):
    """qa_outputs(LayerNorm(h + dropout(ffn(dropout(h))))).

    Args:
        config: sizes and rates.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.feed_forward = FeedForward(config.hidden_size, config.intermediate_size, act=config.hidden_act)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., 2)."""
        fed = self.dropout(self.feed_forward(self.dropout(hidden)))
        scores: Tensor = self.qa_outputs(self.LayerNorm(fed + hidden))
        return scores


class BigBirdForQuestionAnswering(tasks.QuestionAnswering):
    """BigBird with a head that scores every token but the question's as the first and as the last of the answer."""

    body_class = BigBirdModel

    def build_head(self, config: EncoderConfig) -> None:
        """`qa_classifier`."""
        super().build_head(config)
        del self.qa_outputs, self.dropout
        self.qa_classifier = AnswerHead(config)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        question_lengths: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        *,
        num_items_in_batch: Items | TwoItems = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> SpanOutput:
        """`question_lengths` (B, 1): tokens that are none of an answer; None = up to the first separator."""
        if options.get("layout") is not None:
            raise ValueError("questions are counted in padded batches: give no layout")
        question = self._question(input_ids, question_lengths)  # (B, T) bool
        if question is not None and token_type_ids is None:
            token_type_ids = 1 - question.long()
        body = self.run_body(
            start_positions, input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids,
            position_ids=position_ids, inputs_embeds=inputs_embeds, **options,
        )  # fmt: skip
        scores = self.qa_classifier(body.last_hidden_state)
        grid, lowest = (
            tasks.pad_scores(body, scores, fill) for fill in (0.0, torch.finfo(scores.dtype).min)
        )  # (B, T, 2)
        if question is not None:
            away = (question & (torch.arange(question.shape[1], device=question.device) > 0))[..., None] * QUESTION
            grid, lowest = grid - away, lowest - away
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(lowest[..., 0], lowest[..., 1], start_positions, end_positions, num_items_in_batch)
        return returned(SpanOutput(loss, grid[..., 0], grid[..., 1], **body.by_layer), return_dict, self.config)

    def _question(self, ids: Tensor | None, lengths: Tensor | None) -> Tensor | None:
        if ids is None:
            return None
        if lengths is None:
            separator = cast("BigBirdConfig", self.config).sep_token_id
            lengths = (ids == (-1 if separator is None else separator)).int().argmax(dim=1, keepdim=True) + 1
        return torch.arange(ids.shape[1], device=ids.device) < lengths
