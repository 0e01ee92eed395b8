"""DeBERTa-v2 and v3: contents and positions are disentangled (He et al. 2021, "DeBERTa"; He et al. 2023, "DeBERTaV3"). What
differs from `bert.py`:

positions are no part of the embeddings: one table of relative positions, in logarithmic buckets, meets the queries and keys of
every layer (V1). The first block may be followed by a convolution; the poolers belong to the heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from minitrans.attention.bias import AttentionBias, summed
from minitrans.attention.context import Context
from minitrans.attention.mask import AttentionMask
from minitrans.attention.variants.disentangled import DisentangledBias
from minitrans.layers.activations import activation
from minitrans.layers.block import Block
from minitrans.layers.cache import Cache, LayerCache
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.losses import Items, soft_label_loss
from minitrans.layers.multi_head_attention import AttentionOutput, MultiHeadAttention
from minitrans.layers.norms import LayerNorm
from minitrans.layers.stack import Stack, StackOutput
from minitrans.models import language_tasks, tasks
from minitrans.models.arguments import in_order
from minitrans.models.backbone import Backbone
from minitrans.models.config import BertSizesConfig, EncoderConfig, Rule
from minitrans.models.padding import Packing

ORDER = (
    "input_ids attention_mask token_type_ids position_ids inputs_embeds {}"
    "output_attentions output_hidden_states return_dict"
)
TABLE = "relative_embeddings"  # where the blocks find the table of relative positions, in `Context.shared`
KINDS = ("c2p", "p2c")  # the query and the key that meets the table: content to position, position to content


def _kinds(config: DebertaV2Config) -> list[str]:
    given = config.pos_att_type or []
    return [kind.strip() for kind in given.lower().split("|")] if isinstance(given, str) else list(given)


@dataclass(kw_only=True)
class DebertaV2Config(BertSizesConfig):
    """The defaults are those of deberta-v3-base; the meaning of the other fields stands in `config.py`."""

    model_type: ClassVar[str] = "deberta-v2"
    rules: ClassVar[tuple[Rule, ...]] = (
        *BertSizesConfig.rules,
        (("type_vocab_size", "conv_kernel_size"), lambda size, c: size >= 0, "at least 0"),
        (
            ("attention_head_size",), lambda width, c: width in (None, c.hidden_size // c.num_attention_heads),
            "hidden_size / num_attention_heads: no other width of heads gives back the width of the model",
        ),
        (("pooler_hidden_size",), lambda width, c: width == c.hidden_size, "hidden_size, which the pooler reads"),
        (
            ("pos_att_type",), lambda given, c: isinstance(given, str | list | None) and set(_kinds(c)) <= {*KINDS},
            "'c2p', 'p2c', both with a | between, or null",
        ),
        (
            ("position_buckets",), lambda buckets, c: buckets <= 0 or 1 <= buckets // 2 != c.max_distance - 1,
            "at least 2, half of it not the longest distance less 1; or -1",
        ),
        (("conv_kernel_size",), lambda size, c: size == 0 or size % 2 == 1, "odd, or 0: a text keeps its length"),
        (("conv_groups",), lambda groups, c: groups >= 1 and c.hidden_size % groups == 0, "a divisor of hidden_size"),
        (
            ("legacy",), lambda legacy, c: legacy or (c.tie_word_embeddings and c.embedding_size == c.hidden_size),
            "True: the other head scores by the token table, which must be tied and as wide as the model",
        ),
        (("pruned_heads",), lambda pruned, c: not pruned, "empty: heads share a table of positions; use head_mask"),
    )  # fmt: skip
    reference_defaults: ClassVar[Mapping[str, object]] = {
        "layer_norm_eps": 1e-7, "type_vocab_size": 0, "relative_attention": False, "max_relative_positions": -1,
        "position_biased_input": True, "pos_att_type": None, "position_buckets": -1, "share_att_key": False,
        "norm_rel_ebd": "none", "embedding_size": None,
    }  # fmt: skip

    vocab_size: int = 128100
    embedding_size: int | None = None  # width of the tables of tokens; None = hidden_size
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    attention_head_size: int | None = None  # K; it can be no other than hidden_size / num_attention_heads
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 0  # rows of the token-type table; 0 = there is none
    layer_norm_eps: float = 1e-7
    pad_token_id: int | None = 0
    relative_attention: bool = True  # positions in the attention
    pos_att_type: str | list[str] | None = "p2c|c2p"  # which of KINDS
    position_buckets: int = 256  # half the rows of the table; -1 = a row for each distance
    max_relative_positions: int = -1  # from where on all distances are one; -1 = max_position_embeddings
    share_att_key: bool = True  # the table goes through the projections of the contents
    norm_rel_ebd: str = "layer_norm"  # "layer_norm": the table is normalised
    position_biased_input: bool = False  # positions in the embeddings too
    conv_kernel_size: int = 0  # width of a convolution after the first block; 0 = there is none
    conv_groups: int = 1  # of its channels
    conv_act: str = "tanh"  # its activation
    pooler_hidden_size: int | None = None  # hidden_size
    pooler_dropout: float = 0.0  # on what the pooler reads
    pooler_hidden_act: str = "gelu"  # its activation
    cls_dropout: float | None = None  # on the pooled text; None = hidden_dropout_prob
    legacy: bool = True  # the head of the language model has its own decoder; False = that of the published v3 (V1)

    def __post_init__(self) -> None:
        self.embedding_size = self.hidden_size if self.embedding_size is None else self.embedding_size
        self.pooler_hidden_size = self.hidden_size if self.pooler_hidden_size is None else self.pooler_hidden_size
        super().__post_init__()
        for name in (self.conv_act, self.pooler_hidden_act):
            activation(name)

    @property
    def max_distance(self) -> int:
        """From where on all distances are one."""
        return self.max_position_embeddings if self.max_relative_positions < 1 else self.max_relative_positions

    @property
    def reach(self) -> int:
        """Half the rows of the table."""
        return self.position_buckets if self.position_buckets > 0 else self.max_distance


class DebertaEmbeddings(nn.Module):
    """LayerNorm(token + position + type), projected to the width of the model before the norm where it is another."""

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__()
        width = cast("int", config.embedding_size)
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        biased, types = config.position_biased_input, config.type_vocab_size
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width) if biased else None
        self.token_type_embeddings = nn.Embedding(types, width) if types else None
        self.projection = None if width == config.hidden_size else nn.Linear(width, config.hidden_size, bias=False)
        self.LayerNorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, tokens: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        """(...) ids or (..., E) vectors -> (..., D)."""
        x = tokens if tokens.is_floating_point() else self.word_embeddings(tokens)
        types = torch.zeros_like(positions) if types is None else types
        for table, ids in ((self.position_embeddings, positions), (self.token_type_embeddings, types)):
            x = x if table is None else x + table(ids)
        x = x if self.projection is None else self.projection(x)
        embedded: Tensor = self.dropout(self.LayerNorm(x))
        return embedded


class RelativeEmbeddings(nn.Embedding):
    """The table of relative positions (2 · reach, D), normalised or not."""

    def __init__(self, rows: int, width: int, *, eps: float | None) -> None:
        super().__init__(rows, width)
        self.LayerNorm = None if eps is None else LayerNorm(width, eps)

    def table(self) -> Tensor:
        """(2 · reach, D)."""
        return self.weight if self.LayerNorm is None else self.LayerNorm(self.weight)


class DisentangledAttention(MultiHeadAttention):
    """scale · (q_i·k_j + q_i·K_r[d(i, j)] + k_j·Q_r[d(j, i)]) (equation 4), with keys and queries of one table of positions.

    Args:
        config: sizes and rates.
    """

    def __init__(self, config: DebertaV2Config) -> None:
        width, heads, self_kinds = config.hidden_size, config.num_attention_heads, _kinds(config)
        terms = 1 + len({*KINDS} & {*self_kinds})  # those there would be without relative_attention too
        scale = float(width // heads * terms) ** -0.5
        super().__init__(width, heads, dropout=config.attention_probs_dropout_prob, scale=scale)
        self.kinds = self_kinds if config.relative_attention else []
        self.reach = config.reach
        self.max_distance = config.max_distance if config.position_buckets > 0 else None
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        own = [] if config.share_att_key else self.kinds
        self.position_key = nn.Linear(width, width) if "c2p" in own else None
        self.position_query = nn.Linear(width, width) if "p2c" in own else None

    def _attend(
        self,
        x: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        context: Context,
        mask: AttentionMask,
        bias: AttentionBias | None,
    ) -> AttentionOutput:
        table = context.shared.get(TABLE)
        if table is not None:
            table = self.dropout(table)
            key_table = self._heads(table, self.position_key or self.key) if "c2p" in self.kinds else None
            query_table = self._heads(table, self.position_query or self.query) if "p2c" in self.kinds else None
            bias = summed(bias, DisentangledBias(key_table, query_table, self.reach, self.max_distance))
        return super()._attend(x, query, key, value, context, mask, bias)

    def _heads(self, table: Tensor, projection: nn.Module) -> Tensor:
        """(R, D) -> (H, R, K)."""
        return self._split(projection(table[None]))[0]


class Convolution(nn.Module):
    """LayerNorm(y + act(conv(x))) along the text, where padding counts as nothing.

    Args:
        config: sizes and rates.
    """

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__()
        width, size = config.hidden_size, config.conv_kernel_size
        self.conv = nn.Conv1d(width, width, size, padding=size // 2, groups=config.conv_groups)
        self.act, self.dropout = activation(config.conv_act), nn.Dropout(config.hidden_dropout_prob)
        self.LayerNorm = LayerNorm(width, config.layer_norm_eps)

    def forward(self, x: Tensor, y: Tensor, context: Context) -> Tensor:
        """(B, T, D) twice -> (B, T, D), or (N, D)."""
        packing = None if context.layout is None else Packing.of_layout(context.layout)
        grid = x if packing is None else packing.unpack(x)
        if context.mask.key_padding is not None:
            grid = grid.masked_fill(~context.mask.key_padding[..., None], 0.0)
        grid = self.conv(grid.mT).mT.contiguous()
        moved = self.act(self.dropout(grid if packing is None else packing.pack(grid)))
        normed: Tensor = self.LayerNorm(y + moved)
        return normed


class DebertaEncoder(Stack):
    """Blocks that share a table of relative positions.

    Args:
        blocks: L of them.
        table: of the relative positions; None = there are none.
        convolution: what stands beside the first block, if anything.
    """

    def __init__(
        self, blocks: Iterable[Block], table: RelativeEmbeddings | None, convolution: Convolution | None
    ) -> None:
        super().__init__(blocks)
        self.relative_embeddings, self.convolution = table, convolution

    def blocks(self) -> Iterable[Callable[..., Tensor]]:
        """The first with the convolution."""
        first, *rest = super().blocks()
        return (first if self.convolution is None else partial(self._convolved, first), *rest)

    def _convolved(self, block: Callable[..., Tensor], x: Tensor, context: Context, cache: LayerCache | None) -> Tensor:
        assert self.convolution is not None
        moved: Tensor = self.convolution(x, block(x, context, cache), context)
        return moved

    def forward(
        self, x: Tensor, context: Context, cache: Cache | None = None, *, keep_states: bool = False
    ) -> StackOutput:
        """As `Stack`."""
        if self.relative_embeddings is not None:
            context = replace(context, shared={**context.shared, TABLE: self.relative_embeddings.table()})
        return super().forward(x, context, cache, keep_states=keep_states)


class DebertaV2Model(Backbone):
    """Embeddings without positions, and L post-norm blocks with disentangled attention."""

    config_class = DebertaV2Config
    base_model_prefix = "deberta"
    has_pooler = False
    forward = in_order(Backbone, ORDER.format(""))

    def build(self, config: EncoderConfig) -> None:
        """One table of positions for all blocks (V1)."""
        config = cast("DebertaV2Config", config)
        self.embeddings = DebertaEmbeddings(config)  # type: ignore[assignment]
        table, eps = None, config.layer_norm_eps if "layer_norm" in config.norm_rel_ebd.lower() else None
        if config.relative_attention:
            table = RelativeEmbeddings(2 * config.reach, config.hidden_size, eps=eps)
        convolution = Convolution(config) if config.conv_kernel_size else None
        blocks = (
            Block(
                DisentangledAttention(config),
                FeedForward(config.hidden_size, config.intermediate_size, act=config.hidden_act),
                [LayerNorm(config.hidden_size, config.layer_norm_eps) for _ in range(2)],
                dropout=config.hidden_dropout_prob,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.encoder = DebertaEncoder(blocks, table, convolution)

    @property
    def longest(self) -> int | None:
        """Relative positions have no end."""
        config = cast("DebertaV2Config", self.config)
        return config.max_position_embeddings if config.position_biased_input else None


class ContextPooler(nn.Module):
    """act(W h₀ + b) of the first token, with dropout before.

    Args:
        config: sizes and rates.
    """

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__()
        self.dropout, self.dense = nn.Dropout(config.pooler_dropout), nn.Linear(config.hidden_size, config.hidden_size)
        self.act = activation(config.pooler_hidden_act)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, D)."""
        pooled: Tensor = self.act(self.dense(self.dropout(hidden[:, 0])))
        return pooled


class _Pooled(tasks.TaskModel):
    """A head on a pooler of its own."""

    score: Callable[..., Tensor]
    needs_pooler = False

    def build_head(self, config: EncoderConfig) -> None:
        """`pooler`, and what stands on it."""
        super().build_head(config)
        config = cast("DebertaV2Config", config)
        self.pooler = ContextPooler(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob if config.cls_dropout is None else config.cls_dropout)


class DebertaV2ForMaskedLM(language_tasks.MaskedLM):
    """DeBERTa with a head that scores the vocabulary at every token."""

    body_class = DebertaV2Model
    forward = in_order(language_tasks.MaskedLM, ORDER.format("labels "))


class DebertaV2ForSequenceClassification(_Pooled, tasks.SequenceClassification):
    """DeBERTa with a linear classifier on the pooled first token."""

    body_class = DebertaV2Model
    forward = in_order(tasks.SequenceClassification, ORDER.format("labels "))

    def score(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, C)."""
        return super().score(hidden, self.pooler(hidden))

    def loss(self, logits: Tensor, labels: Tensor, items: Items) -> Tensor:
        """Where the labels are to tell, a row of numbers is a distribution over the classes."""
        if self.config.problem_type is None and labels.dim() == 2 and labels.shape[-1] > 1:
            return soft_label_loss(logits, labels, items)
        return super().loss(logits, labels, items)


class DebertaV2ForTokenClassification(tasks.TokenClassification):
    """DeBERTa with a linear classifier on every token."""

    body_class = DebertaV2Model
    forward = in_order(tasks.TokenClassification, ORDER.format("labels "))


class DebertaV2ForQuestionAnswering(tasks.QuestionAnswering):
    """DeBERTa with a head that scores every token as the first and as the last of the answer."""

    body_class = DebertaV2Model
    forward = in_order(tasks.QuestionAnswering, ORDER.format("start_positions end_positions "))


class DebertaV2ForMultipleChoice(_Pooled, tasks.MultipleChoice):
    """DeBERTa with a head that scores each of several texts."""

    body_class = DebertaV2Model
    forward = in_order(tasks.MultipleChoice, ORDER.format("labels "))

    def score(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        """(B · choices, T, D) -> (B · choices, 1)."""
        return super().score(hidden, self.pooler(hidden))
