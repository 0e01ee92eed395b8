"""The engine of the BERT-shaped families: check the input, embed it, run the blocks, pool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple, TypedDict, TypeVar, cast

import torch
from torch import Tensor, nn

from minitrans.attention.bias import AttentionBias
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.layers.cache import KeyValueCache, LayerCache
from minitrans.layers.decoder_block import DecoderBlock
from minitrans.layers.embeddings import Embeddings
from minitrans.layers.encoder_block import BlockOutput, EncoderBlock
from minitrans.layers.heads import Pooler
from minitrans.layers.norms import LayerNorm
from minitrans.models.config import EncoderConfig
from minitrans.models.inputs import memory_mask
from minitrans.models.outputs import EncoderOutput, ModelOutput
from minitrans.models.preparation import Given, prepare
from minitrans.models.pretrained import PreTrainedModel, head_masks

Output = TypeVar("Output", bound=ModelOutput)


class BodyOptions(TypedDict, total=False):
    """The arguments that a model with a head hands on to its body."""

    head_mask: Tensor | None
    output_attentions: bool | None
    output_hidden_states: bool | None
    layout: PackedLayout | None


class Stacked(NamedTuple):
    """What a stack of blocks returns: its output, and of what was asked for besides, one entry a block."""

    output: Tensor
    hidden_states: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    cross_weights: tuple[Tensor, ...]
    caches: tuple[LayerCache, ...]


class Encoder(nn.Module):
    """A stack of blocks.

    Args:
        blocks: L encoder blocks, or L decoder blocks.
        norm: what follows the last of pre-norm blocks.
        order: which block makes each layer, where layers share blocks; None = each has its own.
    """

    def __init__(
        self, blocks: Iterable[EncoderBlock], norm: LayerNorm | None = None, order: Iterable[int] | None = None
    ) -> None:
        super().__init__()
        self.layer = nn.ModuleList(blocks)
        self.LayerNorm = norm
        self.order = tuple(range(len(self.layer)) if order is None else order)

    def forward(
        self,
        x: Tensor,
        *,
        mask: AttentionMask,
        bias: AttentionBias | None = None,
        layout: PackedLayout | None = None,
        memory: Tensor | None = None,
        memory_mask: AttentionMask | None = None,
        past: KeyValueCache | None = None,
        head_masks: Sequence[Tensor | None],
        need_weights: bool = False,
        keep_states: bool = False,
        keep_cache: bool = False,
    ) -> Stacked:
        """(B, T, D) -> (B, T, D), or (N, D) -> (N, D), through every block; the arguments are those of `DecoderBlock`."""
        states, weights, cross_weights, caches = [x] if keep_states else [], [], [], []
        for index, block in enumerate(self.layer[number] for number in self.order):
            decoding: dict[str, Any] = {}
            if isinstance(block, DecoderBlock):
                remembered = None if past is None else past.layers[index]
                decoding = {"memory": memory, "memory_mask": memory_mask or AttentionMask(), "past": remembered}
            out: BlockOutput = block(
                x,
                mask=mask,
                bias=bias,
                layout=layout,
                head_mask=head_masks[index],
                need_weights=need_weights,
                **decoding,
            )
            x = out.output
            if keep_states:
                states.append(x)
            if keep_cache:
                caches.append(out.cache)
            weights.append(out.weights)
            cross_weights.append(out.cross_weights)
        if self.LayerNorm is not None:
            x = self.LayerNorm(x)
            if keep_states:
                states[-1] = x  # M7: the last hidden state is the normed one
        return Stacked(x, tuple(states), _given(weights), _given(cross_weights), tuple(caches))


class EncoderModel(PreTrainedModel):
    """A body: a family builds `embeddings`, `encoder` and `pooler`, and its `positions` says where tokens stand."""

    embeddings: Embeddings
    encoder: Encoder
    pooler: Pooler | None
    has_pooler: ClassVar[bool] = True  # some families have none at all

    def __init__(self, config: EncoderConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.build(config)
        self.pooler = Pooler(config.hidden_size) if add_pooling_layer and self.has_pooler else None
        self.finish_init()
        if config.pruned_heads:
            self.remove_heads(config.pruned_heads)

    def build(self, config: EncoderConfig) -> None:
        """Makes `embeddings` and `encoder`."""
        raise NotImplementedError

    def positions(self, tokens: Tensor, past_length: int) -> Tensor:
        """(B, T) position ids of `tokens` (ids or vectors) that follow `past_length` others. Checks the length."""
        raise NotImplementedError

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: KeyValueCache | None = None,
        use_cache: bool | None = None,
        *,
        head_mask: Tensor | None = None,
        layout: PackedLayout | None = None,
        padding: str | None = None,
        unpack: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> EncoderOutput:
        """Runs the body.

        Args:
            input_ids: (B, T) token ids.
            attention_mask: (B, S), 1 = a token, 0 = padding; None = all are tokens (M4: padding ids are not guessed).
                4-D forms: see `inputs.attention_mask`.
            token_type_ids: (B, T); None = zeros.
            position_ids: (B, T); None = the family's rule.
            inputs_embeds: (B, T, D) instead of ids.
            encoder_hidden_states: (B, S, D) for cross-attention (B7).
            encoder_attention_mask: (B, S) over those.
            past_key_values: what an earlier call of a decoder returned; this call's tokens come after.
            use_cache: return that (decoders only); None = the configuration's.
            head_mask: (H) or (L, H) factors of the attention heads.
            layout: where the sequences of a packed batch lie: then the inputs are (N), without a mask, and so are the outputs.
            padding: "keep", "remove" or "auto", see `padding.choose_packing`; None = the model's.
            unpack: whether the last hidden state is (B, T, D) in any case, or (N, D) where padding was left out;
                None = as the input came.
            output_attentions: return the probabilities; None = the configuration's.
            output_hidden_states: return every layer's output; None = the configuration's.
            return_dict: False returns a plain tuple.

        Raises:
            ValueError, TypeError: for input that does not fit the model.
        """
        config = self.config
        if past_key_values is not None and not config.is_decoder:
            raise ValueError("past_key_values needs a decoder: set is_decoder=True in the configuration")
        need_weights = config.output_attentions if output_attentions is None else output_attentions
        need_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        keep_cache = config.is_decoder and (config.use_cache if use_cache is None else use_cache)
        past_length = 0 if past_key_values is None else past_key_values.get_seq_length()
        given = Given(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, layout, past_length)
        batch = prepare(
            given,
            config,
            self.positions,
            padding=padding or self.padding,
            needs_padding={
                "output_attentions": need_weights,
                "use_cache": keep_cache or past_key_values is not None,
                "encoder_hidden_states": encoder_hidden_states is not None,
            },
        )

        stacked: Stacked = self.encoder(
            self.embeddings(batch.tokens, batch.positions, batch.types),
            mask=batch.mask,
            bias=batch.bias,
            layout=batch.layout,
            memory=encoder_hidden_states,
            memory_mask=memory_mask(encoder_hidden_states, encoder_attention_mask, batch.shape, config),
            past=past_key_values,
            head_masks=head_masks(head_mask, len(self.encoder.order), config.num_attention_heads),
            need_weights=need_weights,
            keep_states=need_states,
            keep_cache=keep_cache,
        )
        came_padded = layout is None
        unpacks = came_padded if unpack is None else unpack
        hidden = batch.padded(stacked.output) if unpacks or self.pooler is not None else stacked.output
        states = tuple(batch.padded(state) if came_padded else state for state in stacked.hidden_states)
        output = EncoderOutput(
            last_hidden_state=hidden if unpacks else stacked.output,
            pooler_output=None if self.pooler is None else self.pooler(hidden),
            past_key_values=KeyValueCache(stacked.caches) if keep_cache else None,
            hidden_states=states if need_states else None,
            attentions=stacked.weights if need_weights else None,
            cross_attentions=stacked.cross_weights if need_weights and encoder_hidden_states is not None else None,
            packing=batch.packing if came_padded and not unpacks else None,
        )
        return returned(output, return_dict)


def block(config: EncoderConfig, **changes: Any) -> EncoderBlock:
    """One post-norm block of the sizes of `config`, with `changes`: a decoder block where the model is one (B1, B7)."""
    options: dict[str, Any] = {
        "act": config.hidden_act,
        "eps": config.layer_norm_eps,
        "dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        "attention": config.attention,
        **changes,
    }
    if config.position_embedding_type != "absolute":  # M8: a table of its own in every block
        options["relative_positions"] = config.max_position_embeddings
        options["relative_with_key"] = config.position_embedding_type == "relative_key_query"
    sizes = (config.hidden_size, config.num_attention_heads, config.intermediate_size)
    if config.is_decoder:
        return DecoderBlock(*sizes, cross_attention=config.add_cross_attention, **options)
    return EncoderBlock(*sizes, **options)


def returned(output: Output, return_dict: bool | None) -> Output:
    """The output, or (for the few callers that unpack) a plain tuple of its entries where `return_dict` is False."""
    return cast("Output", output.to_tuple()) if return_dict is False else output


def _given(weights: Iterable[Tensor | None]) -> tuple[Tensor, ...]:
    return tuple(each for each in weights if each is not None)


def running_positions(tokens: Tensor, start: int) -> Tensor:
    """(B, T): start, start + 1, ... in every row."""
    batch, length = tokens.shape[:2]
    return torch.arange(start, start + length, device=tokens.device).expand(batch, length)
