"""Longformer: a window around each token, and a few global tokens (Beltagy et al. 2020). What differs from `roberta.py`:

every block sees a window; tokens of `global_attention_mask` see all and are seen by all, by projections of their own (L3); the
heads choose them where the call does not (L4). No layer is a decoder. Nothing is padded to a multiple of the window: the numbers
are those of the reference, which does (L1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from minitrans.attention.bias import AttentionBias
from minitrans.attention.context import Context
from minitrans.attention.dispatch import attend
from minitrans.attention.mask import AttentionMask, has_values
from minitrans.attention.rules import AttentionResult, AttentionRules
from minitrans.attention.variant import CallSizes, LayerSizes, Variant
from minitrans.layers.stack import Stack
from minitrans.models import language_tasks, roberta, tasks
from minitrans.models.arguments import in_order
from minitrans.models.backbone import Backbone, EncoderOutput, build_block, layer_sizes
from minitrans.models.config import BertSizesConfig, EncoderConfig, Rule
from minitrans.models.padding import Packing

ORDER = (
    "input_ids attention_mask global_attention_mask token_type_ids position_ids inputs_embeds {}"
    "output_attentions output_hidden_states return_dict"
)
SEPARATORS = 3  # of a question and a text: <s> question </s></s> text </s>


@dataclass(kw_only=True)
class LongformerConfig(BertSizesConfig):
    """The defaults are those of longformer-base-4096; the meaning of the other fields stands in `config.py`."""

    model_type: ClassVar[str] = "longformer"
    rules: ClassVar[tuple[Rule, ...]] = (
        *BertSizesConfig.rules,
        *roberta.RobertaArchitectureConfig.rules[-1:],
        (("type_vocab_size",), lambda rows, c: rows >= 1, "at least 1"),
        (
            ("attention_window",),
            lambda given, c: len(c.windows) == c.num_hidden_layers
            and all(type(window) is int and window > 0 and window % 2 == 0 for window in c.windows),
            "an even number of at least 2, or one a layer: half of it is seen to each side",
        ),
        (("pruned_heads",), lambda pruned, c: not pruned, "empty: global tokens have heads of their own; use head_mask"),
    )  # fmt: skip
    steering: ClassVar[frozenset[str]] = BertSizesConfig.steering - {"pad_token_id"} | {"sep_token_id"}

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 4098
    type_vocab_size: int = 1  # rows of the token-type table
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | None = 2
    sep_token_id: int | None = 2  # between a question and its text: which tokens of the heads are global (L4)
    attention_window: int | list[int] = 512  # tokens to both sides together, or one number a layer

    @property
    def windows(self) -> list[Any]:
        """One a layer."""
        given: Any = self.attention_window
        return list(given) if isinstance(given, list | tuple) else [given] * self.num_hidden_layers


class GlobalTokens(Variant):
    """A window, and for global tokens queries, keys and values of their own over the whole text (L3).

    Args:
        sizes: of the block.
        window: even width in tokens, half to each side.
        dropout: probability, on the probabilities of the global tokens.
    """

    name = "longformer"
    whole_texts = True

    def __init__(self, sizes: LayerSizes, *, window: int, dropout: float) -> None:
        super().__init__(sizes)
        self.side = window // 2
        self.query_global = nn.Linear(sizes.width, sizes.heads * sizes.head_width)
        self.key_global = nn.Linear(sizes.width, sizes.heads * sizes.head_width)
        self.value_global = nn.Linear(sizes.width, sizes.heads * sizes.head_width)
        self.dropout = nn.Dropout(dropout)

    def restrict(
        self, mask: AttentionMask, bias: AttentionBias | None, sizes: CallSizes
    ) -> tuple[AttentionMask, AttentionBias | None]:
        """The window, which global tokens lift."""
        return replace(mask, window=(self.side, self.side)), bias

    def finish(self, result: AttentionResult, x: Tensor, context: Context) -> AttentionResult:
        """Rows of global tokens are those of their own attention; rows of padding are zero (L3)."""
        mask, output, weights = context.mask, result.output, result.weights
        if mask.global_tokens is not None:
            chosen = mask.global_tokens if context.layout is None else mask.global_tokens[0]
            own = self._of_all(x, context) if self._needs_all(context) else self._of_chosen(x, chosen, mask)
            rows = chosen[:, None, :, None] if context.layout is None else chosen[:, None, None]
            output = torch.where(rows, own.output, output)
            weights = None if weights is None or own.weights is None else torch.where(rows, own.weights, weights)
        if mask.key_padding is not None:
            padding = ~mask.key_padding[:, None, :, None]
            output = output.masked_fill(padding, 0.0)
            weights = None if weights is None else weights.masked_fill(padding, 0.0)
        return replace(result, output=output, weights=weights)

    def _needs_all(self, context: Context) -> bool:
        """Whether all tokens are asked, as if they were global: to know which are takes numbers, and a grid."""
        mask = context.mask
        among = context.layout is not None or context.need_weights or context.bias is not None or mask.dense is not None
        return among or not has_values(cast("Tensor", mask.global_tokens))

    def _of_all(self, x: Tensor, context: Context) -> AttentionResult:
        """(B, H, T, K), or (N, H, K)."""
        rules = AttentionRules(
            replace(context.mask, global_tokens=None), context.bias, context.layout, need_weights=context.need_weights
        )
        return self._attend(x, x, rules)

    def _of_chosen(self, x: Tensor, chosen: Tensor, mask: AttentionMask) -> AttentionResult:
        """(B, H, T, K), of which the rows of the `chosen` (B, T) count."""
        places = chosen.int().argsort(dim=1, descending=True, stable=True)[:, : int(chosen.sum(dim=1).max())]  # (B, g)
        asking = x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
        own = self._attend(asking, x, AttentionRules(AttentionMask(key_padding=mask.key_padding))).output
        spread = own.new_zeros(*own.shape[:2], x.shape[1], own.shape[3])
        return AttentionResult(spread.scatter(2, places[:, None, :, None].expand_as(own), own))

    def _attend(self, asking: Tensor, x: Tensor, rules: AttentionRules) -> AttentionResult:
        rules = replace(rules, dropout_p=self.dropout.p if self.training else 0.0)
        pairs = ((self.query_global, asking), (self.key_global, x), (self.value_global, x))
        query, key, value = (
            projection(each).unflatten(-1, (-1, self.sizes.head_width)).movedim(-2, -3 if each.dim() == 3 else -2)
            for projection, each in pairs
        )
        return attend(query, key, value, rules)


class LongformerModel(roberta.RobertaBody):
    """Embeddings, L post-norm blocks of windows and global tokens, and a pooler on the first token.

    Args:
        config: sizes and rules.
        add_pooling_layer: whether to have the pooler.
    """

    config_class = LongformerConfig
    base_model_prefix = "longformer"
    forward = in_order(Backbone, ORDER.format(""))

    def stack(self, config: EncoderConfig) -> Stack:
        """L blocks, each with its window."""
        config = cast("LongformerConfig", config)
        dropout = config.attention_probs_dropout_prob
        return Stack(
            build_block(config, own=[GlobalTokens(layer_sizes(config, layer), window=window, dropout=dropout)])
            for layer, window in enumerate(config.windows)
        )


class _Choosing(tasks.TaskModel):
    """A head that says which tokens are global where the call does not (L4)."""

    def chosen(self, ids: Tensor) -> Tensor:
        """(B, T) ids -> (B, T) bool."""
        raise NotImplementedError

    def run_body(self, labels: Tensor | None, /, **given: Any) -> EncoderOutput:
        """The body's output."""
        ids, layout = given.get("input_ids"), given.get("layout")
        if given.get("global_attention_mask") is None and ids is not None:
            packing = None if layout is None else Packing.of_layout(layout)
            chosen = self.chosen(ids if packing is None else packing.unpack(ids, cast("int", self.config.pad_token_id)))
            given["global_attention_mask"] = chosen if packing is None else packing.pack(chosen)
        return super().run_body(labels, **given)

    def separators(self, ids: Tensor) -> Tensor:
        """(B, 3): where the separators stand. Raises ValueError where a row has another number of them."""
        separator = cast("LongformerConfig", self.config).sep_token_id
        found = ids == (-1 if separator is None else separator)  # (B, T)
        if has_values(ids) and bool((found.sum(dim=1) != SEPARATORS).any()):
            raise ValueError(
                f"global tokens are told by the separators of a question and its text: every row must have {SEPARATORS} of "
                f"sep_token_id, got {found.sum(dim=1).tolist()}; or give global_attention_mask yourself"
            )
        return found.int().argsort(dim=1, descending=True, stable=True)[:, :SEPARATORS]


class LongformerForMaskedLM(roberta.MaskedLM):
    """Longformer with a head that scores the vocabulary at every token."""

    body_class = LongformerModel
    forward = in_order(language_tasks.MaskedLM, ORDER.format("labels "))


class LongformerForSequenceClassification(_Choosing, roberta.SequenceClassification):
    """Longformer with a two-layer classifier on the first token, which is global."""

    body_class = LongformerModel
    forward = in_order(tasks.SequenceClassification, ORDER.format("labels "))

    def chosen(self, ids: Tensor) -> Tensor:
        """The first token."""
        return (torch.arange(ids.shape[1], device=ids.device) == 0).expand(ids.shape)


class LongformerForTokenClassification(tasks.TokenClassification):
    """Longformer with a linear classifier on every token."""

    body_class = LongformerModel
    forward = in_order(tasks.TokenClassification, ORDER.format("labels "))


class LongformerForQuestionAnswering(_Choosing, tasks.QuestionAnswering):
    """Longformer with a head that scores every token as the first and as the last of the answer; the question is global."""

    body_class = LongformerModel
    forward = in_order(tasks.QuestionAnswering, ORDER.format("start_positions end_positions "))

    def chosen(self, ids: Tensor) -> Tensor:
        """What comes before the first separator."""
        return torch.arange(ids.shape[1], device=ids.device) < self.separators(ids)[:, :1]


class LongformerForMultipleChoice(_Choosing, tasks.MultipleChoice):
    """Longformer with a head that scores each of several texts, which are global, without the question."""

    body_class = LongformerModel
    forward = in_order(
        tasks.MultipleChoice,
        "input_ids token_type_ids attention_mask global_attention_mask labels position_ids inputs_embeds "
        "output_attentions output_hidden_states return_dict",
    )

    def chosen(self, ids: Tensor) -> Tensor:
        """What comes after the second separator, of which the first ends the question."""
        return torch.arange(ids.shape[1], device=ids.device) > self.separators(ids)[:, :1] + 1
