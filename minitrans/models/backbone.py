"""The engine of the BERT-shaped families: take the input through the door, embed it, run the blocks, pool."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from minitrans.attention.layout import PackedLayout
from minitrans.attention.specs import VariantSpec, of_layer
from minitrans.attention.variant import LayerSizes, Variant
from minitrans.errors import NotSupportedError
from minitrans.layers.block import Block
from minitrans.layers.cache import Cache
from minitrans.layers.embeddings import Embeddings, TokenEmbeddings
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.multi_head_attention import CrossAttention, MultiHeadAttention
from minitrans.layers.norms import LayerNorm
from minitrans.layers.position_bias import DistanceEmbedding
from minitrans.layers.stack import Stack
from minitrans.models.arguments import refuse_unknown
from minitrans.models.config import EncoderConfig
from minitrans.models.inputs import ModelInputs, prepare_batch
from minitrans.models.outputs import ModelOutput
from minitrans.models.padding import Packing
from minitrans.models.pretrained import PreTrainedModel

Output = TypeVar("Output", bound=ModelOutput)


class Pooler(nn.Module):
    """tanh(W h₀ + b) of the first token (B2).

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, D)."""
        return torch.tanh(self.dense(hidden[:, 0]))


@dataclass(repr=False)
class EncoderOutput(ModelOutput):
    """Of a body.

    Attributes:
        last_hidden_state: (B, T, D).
        pooler_output: (B, D), where the body has a pooler.
        past_key_values: what a decoder remembers.
        hidden_states: L + 1 tensors (B, T, D): the embeddings, then each block's output.
        attentions: L tensors (B, H, T, S), probabilities before dropout.
        cross_attentions: the same over the memory.
        packing: of a padded batch run without its padding under `unpack=False`: then the hidden states are (N, D).
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    packing: Packing | None = None

    def __post_init__(self) -> None:
        if isinstance(self.last_hidden_state, (Mapping, Iterator)):
            self.rebuild(self.last_hidden_state)

    @property
    def by_layer(self) -> dict[str, Any]:
        """What every output above this one passes on."""
        return {"hidden_states": self.hidden_states, "attentions": self.attentions}


class Backbone(PreTrainedModel):
    """A body: a family builds `embeddings` and `encoder`, and says where tokens stand if they are not counted from 0."""

    embeddings: Embeddings | TokenEmbeddings
    encoder: Stack
    pooler: Pooler | None
    has_pooler: ClassVar[bool] = True  # some families have none at all

    def __init__(self, config: EncoderConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.build(config)
        self.pooler = Pooler(config.hidden_size) if add_pooling_layer and self.has_pooler else None
        self.finish_init()
        if config.pruned_heads:
            self.remove_heads(config.pruned_heads)
        self.install_attention(config.attention)
        if getattr(config, "gradient_checkpointing", False):
            self.gradient_checkpointing_enable()

    def build(self, config: EncoderConfig) -> None:
        """Makes `embeddings` and `encoder`."""
        raise NotImplementedError

    def positions(self, tokens: Tensor, past_length: int) -> Tensor:
        """(B, T) position ids of `tokens` (ids or vectors) that follow `past_length` others.

        B6: past_length, + 1, + 2, ... whatever is padding, so that padding on the left moves the text.
        """
        batch, length = tokens.shape[:2]
        return torch.arange(past_length, past_length + length, device=tokens.device).expand(batch, length)

    @property
    def longest(self) -> int | None:
        """The longest sequence that there are positions for; None = there is no end of them."""
        return int(self.config.max_position_embeddings)

    @property
    def num_layers(self) -> int:
        """L, how many blocks run."""
        return len(self.encoder.order)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        *,
        global_attention_mask: Tensor | None = None,
        head_mask: Tensor | Sequence[Tensor | None] | None = None,
        layout: PackedLayout | None = None,
        padding: str | None = None,
        unpack: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> EncoderOutput:
        """Runs the body.

        Args:
            input_ids: (B, T) token ids.
            attention_mask: (B, S), 1 = a token, 0 = padding; None = all are tokens (M4: padding ids are not guessed).
                4-D forms: see `inputs.attention_mask`.
            token_type_ids: (B, T), (1, T) or (T); None = zeros.
            position_ids: (B, T), (1, T) or (T); None = the family's rule.
            inputs_embeds: (B, T, D) instead of ids.
            encoder_hidden_states: (B, S, D) for cross-attention (B7).
            encoder_attention_mask: (B, S) over those.
            past_key_values: what an earlier call of a decoder returned; this call's tokens come after.
            use_cache: return that (decoders only); None = the configuration's.
            global_attention_mask: (B, T), non-zero = the token sees all and is seen by all, where others have a window (L3).
            head_mask: (H) or (L, H) factors of the attention heads; or a list of L rows, where None stands for ones.
            layout: where the sequences of a packed batch lie: then the inputs are (N), without a mask, and so are the outputs.
            padding: "keep", "remove" or "auto", see `padding.choose_packing`; None = the model's.
            unpack: whether the last hidden state is (B, T, D) in any case, or (N, D) where padding was left out;
                None = as the input came.
            output_attentions: return the probabilities; None = the configuration's.
            output_hidden_states: return every layer's output; None = the configuration's.
            return_dict: False returns a plain tuple; None = the configuration's, and a tuple under `torch.jit.trace`.
            others: words of `arguments.IGNORED_WORDS`, which change nothing.

        Raises:
            ValueError, TypeError: for input that does not fit the model, and for any other word.
        """
        if others:
            refuse_unknown(others, self)
        config = self.config
        need_weights = config.output_attentions if output_attentions is None else output_attentions
        need_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        keep_cache = config.is_decoder and self._keeps_cache(use_cache)
        batch = prepare_batch(self, ModelInputs(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, encoder_hidden_states,
            encoder_attention_mask, past_key_values, keep_cache, global_attention_mask, head_mask, layout, padding, need_weights,
        ))  # fmt: skip

        x = self.embeddings(batch.tokens, batch.positions, batch.types)
        out = self.encoder(x, batch.context, batch.cache, keep_states=need_states)

        unpacks = layout is None if unpack is None else unpack
        hidden = batch.padded(out.output) if unpacks or self.pooler is not None else out.output
        states = tuple(batch.padded(state) if layout is None else state for state in out.hidden_states)
        pooled = None if self.pooler is None else self.pooler(hidden)
        output = EncoderOutput(
            hidden if unpacks else out.output, pooled, batch.cache if keep_cache else None, states or None,
            out.weights or None, out.cross_weights or None, batch.packing if layout is None and not unpacks else None,
        )  # fmt: skip
        return returned(output, return_dict, config)

    def _keeps_cache(self, asked: bool | None) -> bool:
        """As asked, or configured; blocks that run again in the backward pass would extend a cache twice."""
        wanted = self.config.use_cache if asked is None else asked
        return wanted and not (self.training and self.is_gradient_checkpointing)

    @property
    def attentions(self) -> list[MultiHeadAttention]:
        """The self-attention of each block; a block that mixes its tokens otherwise has none."""
        mixers = (getattr(block, "attention", None) for block in getattr(self.encoder, "layer", ()))
        return [mixer for mixer in mixers if isinstance(mixer, MultiHeadAttention)]

    def install_attention(self, attention: VariantSpec, backend: str = "auto", dropout: float | None = None) -> None:
        """Builds the variants of every block, then puts them in; see `PreTrainedModel.set_attention`."""
        count = len(self.attentions)
        if not count and attention != "full":
            raise NotSupportedError(f"{type(self).__name__} has no attention: nothing can be swapped for {attention!r}")
        built = [
            module.build(of_layer(attention, layer, count), backend, layer=layer, longest=self.longest)
            for layer, module in enumerate(self.attentions)
        ]
        for module, variants in zip(self.attentions, built, strict=True):
            module.install(variants, backend, dropout)
            module.adopt()
        for crossing in self.modules():
            if isinstance(crossing, CrossAttention):
                crossing.install([], backend, dropout)

    def why_not(self, what: str) -> str | None:
        """Why the attention of the blocks cannot serve "packed" batches or a "static" cache; None where it can."""
        for attention in self.attentions:
            packed = what == "packed"
            reason = attention.why_not_packed() if packed else attention.why_not_static()
            if reason is not None:
                return f"an attention that does not support {reason}" if packed else reason
        return None


def layer_sizes(config: EncoderConfig, layer: int) -> LayerSizes:
    """What the variants of a family's own attention are built for, in this layer of as many key as query heads."""
    width, heads = config.hidden_size, config.num_attention_heads
    return LayerSizes(width, heads, heads, width // heads, layer, config.max_position_embeddings)


def build_block(
    config: EncoderConfig,
    *,
    norm_first: bool = False,
    scale: float | None = None,
    own: Iterable[Variant] = (),
    kind: type[Block] = Block,
    **dropouts: float,
) -> Block:
    """One block of the sizes of `config`, with a cross-attention where a decoder has one (B1, B7).

    Args:
        config: sizes and rates.
        norm_first: see `Block`.
        scale: see `MultiHeadAttention`.
        own: see `MultiHeadAttention`.
        kind: of block.
        dropouts: `dropout` and `feed_forward_dropout`, where they differ from `config.hidden_dropout_prob`.
    """
    width, heads = config.hidden_size, config.num_attention_heads
    dropout, eps = config.attention_probs_dropout_prob, config.layer_norm_eps
    distances = None
    if config.position_embedding_type != "absolute":  # M8: a table of its own in every block
        with_key = config.position_embedding_type == "relative_key_query"
        distances = DistanceEmbedding(config.max_position_embeddings, width // heads, with_key=with_key)
    crosses = config.add_cross_attention
    return kind(
        MultiHeadAttention(width, heads, dropout=dropout, scale=scale, distance_embedding=distances, own=own),
        FeedForward(width, config.intermediate_size, act=config.hidden_act, dropout=config.activation_dropout),
        [LayerNorm(width, eps) for _ in range(3 if crosses else 2)],
        cross_attention=CrossAttention(width, heads, dropout=dropout, scale=scale) if crosses else None,
        norm_first=norm_first,
        **{"dropout": config.hidden_dropout_prob, **dropouts},
    )


def returned(output: Output, return_dict: bool | None, config: EncoderConfig) -> Output:
    """The output, or a plain tuple of its entries for the callers that unpack, and for a tracer, which knows nothing else."""
    if return_dict is None:
        return_dict = vars(config).get("return_dict", True) and (is_compiling() or not torch._C._is_tracing())
    return output if return_dict else cast("Output", output.to_tuple())
